#include "ik_peer.hpp"

#include <ggml.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

namespace benchmarks {

namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
  void operator()(ggml_context* context) const { ggml_free(context); }
};
using Buffer = std::unique_ptr<void, Free>;

ggml_type type_of(const std::string& name) {
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q8_KV})
    if (name == ggml_type_name(type)) return type;
  throw std::runtime_error("the type of an ik_llama.cpp cache is '" + name +
                           "'; it must be f16, q8_0, q4_0 or q8_KV");
}

Buffer allocated(std::size_t size) {
  constexpr std::size_t page = 4096;
  void* memory = std::aligned_alloc(page, (size + page) / page * page);
  if (memory == nullptr) throw std::bad_alloc();
  return Buffer(memory);
}

/// Its kernels take tables that ggml_init() makes, conversion included.
std::unique_ptr<ggml_context, Free> new_context() {
  constexpr std::size_t tensors = 8;
  return std::unique_ptr<ggml_context, Free>(
      ggml_init({tensors * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr,
                 /*no_alloc=*/true}));
}

}  // namespace

struct IkAttention::State {
  State(const AttentionShape& its_shape, ggml_type its_type, int threads)
      : shape(its_shape), type(its_type), context(new_context()) {
    const auto rows = static_cast<std::size_t>(shape.query_rows);
    const auto tokens = static_cast<std::size_t>(shape.tokens);
    query = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, shape.head_dim, shape.query_rows,
                               shape.query_heads);
    query->nb[2] = ggml_row_size(GGML_TYPE_F32, shape.head_dim);
    query->nb[1] = query->nb[2] * static_cast<std::size_t>(shape.query_heads);
    key = ggml_new_tensor_3d(context.get(), type, shape.head_dim, shape.tokens, shape.kv_heads);
    value = ggml_new_tensor_3d(context.get(), type, shape.head_dim, shape.tokens, shape.kv_heads);
    const auto padded_rows = GGML_PAD(rows, GGML_KQ_MASK_PAD);
    ggml_tensor* mask = ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, shape.tokens,
                                           static_cast<std::int64_t>(padded_rows));
    hidden.assign(padded_rows * tokens, ggml_fp32_to_fp16(0.0f));
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t token = tokens - rows + row + 1; token < tokens; ++token)
        hidden[row * tokens + token] = ggml_fp32_to_fp16(-INFINITY);
    mask->data = hidden.data();
    result = ggml_flash_attn_ext(context.get(), query, key, value, mask, shape.softmax_scale(),
                                 /*max_bias=*/0.0f, /*softcap=*/0.0f);
    graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, result);
    plan = ggml_graph_plan(graph, threads);
    work.resize(plan.work_size);
    plan.work_data = work.data();
  }

  std::size_t buffer_size() const {
    return ggml_row_size(type, shape.head_dim) * static_cast<std::size_t>(shape.tokens) *
           static_cast<std::size_t>(shape.kv_heads);
  }

  Buffer quantized(const float* rows) const {
    Buffer buffer = allocated(buffer_size());
    const std::size_t row_size = ggml_row_size(type, shape.head_dim);
    const auto tokens = static_cast<std::size_t>(shape.tokens);
    const auto heads = static_cast<std::size_t>(shape.kv_heads);
    for (std::size_t token = 0; token < tokens; ++token)
      for (std::size_t head = 0; head < heads; ++head)
        ggml_internal_get_type_traits(type).from_float(
            rows + token * shape.kv_width() + head * static_cast<std::size_t>(shape.head_dim),
            static_cast<char*>(buffer.get()) + (head * tokens + token) * row_size, shape.head_dim);
    return buffer;
  }

  AttentionShape shape;
  ggml_type type;
  std::unique_ptr<ggml_context, Free> context;
  std::vector<Buffer> keys, values;  // one a layer
  std::vector<ggml_fp16_t> hidden;
  std::vector<std::uint8_t> work;
  ggml_tensor *query, *key, *value, *result;
  ggml_cgraph* graph;
  ggml_cplan plan;
};

IkAttention::IkAttention(const AttentionShape& shape, const std::string& type, const float* keys,
                         const float* values, int layers, int threads)
    : state_(new State(shape, type_of(type), threads)) {
  const auto copied = [&](const Buffer& from) {
    Buffer buffer = allocated(state_->buffer_size());
    std::memcpy(buffer.get(), from.get(), state_->buffer_size());
    return buffer;
  };
  for (int layer = 0; layer < layers; ++layer) {
    state_->keys.push_back(layer == 0 ? state_->quantized(keys) : copied(state_->keys[0]));
    state_->values.push_back(layer == 0 ? state_->quantized(values) : copied(state_->values[0]));
  }
}

IkAttention::~IkAttention() = default;

void IkAttention::run(int layer, const float* queries, float* out) {
  state_->query->data = const_cast<float*>(queries);  // a leaf of the graph: only read
  state_->key->data = state_->keys[static_cast<std::size_t>(layer)].get();
  state_->value->data = state_->values[static_cast<std::size_t>(layer)].get();
  state_->result->data = out;
  if (ggml_graph_compute(state_->graph, &state_->plan) != GGML_STATUS_SUCCESS)
    throw std::runtime_error("ik_llama.cpp's ggml_graph_compute failed");
}

std::size_t IkAttention::bytes_per_token(const AttentionShape& shape, const std::string& type) {
  return 2 * ggml_row_size(type_of(type), shape.head_dim) *
         static_cast<std::size_t>(shape.kv_heads);
}

}  // namespace benchmarks
