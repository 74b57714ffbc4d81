#include "ggml_cache.hpp"

#include <ggml-cpu.h>

#include <bitset>
#include <cmath>

#include "require.hpp"

namespace squat_llama {
namespace {

/// The normalised Hadamard matrix, or as many of them along the diagonal as make `dim`.
std::vector<float> hadamard(int dim) {
  int block = 1;
  while (dim % (2 * block) == 0) block *= 2;
  const float entry = 1 / std::sqrt(static_cast<float>(block));
  std::vector<float> matrix(static_cast<size_t>(dim) * static_cast<size_t>(dim), 0.0f);
  for (int i = 0; i < dim; ++i) {
    for (int j = i / block * block; j < (i / block + 1) * block; ++j) {
      const auto common = std::bitset<32>(static_cast<unsigned>(i & j));  // block is a power of two
      matrix[static_cast<size_t>(i * dim + j)] = common.count() % 2 == 0 ? entry : -entry;
    }
  }
  return matrix;
}

}  // namespace

GgmlCache::GgmlCache(const ModelConfig& config, ggml_type type, Rotation rotation, int64_t capacity)
    : config_(config), type_(type), capacity_(capacity) {
  require(config.head_dim % ggml_blck_size(type) == 0, "a cache of ", ggml_type_name(type),
          " needs heads of a multiple of ", ggml_blck_size(type), " channels; the model's have ",
          config.head_dim);
  const size_t tensors = 2 * static_cast<size_t>(config.layers) + 1;
  context_.reset(ggml_init({tensors * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  for (int i = 0; i < config.layers; ++i) {
    keys_.push_back(ggml_new_tensor_2d(context_.get(), type, config.kv_dim(), capacity));
    values_.push_back(ggml_new_tensor_2d(context_.get(), type, config.kv_dim(), capacity));
  }
  if (rotation == Rotation::hadamard) {
    hadamard_ = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F32, config.head_dim, config.head_dim);
  }
  buffer_.reset(
      ggml_backend_alloc_ctx_tensors_from_buft(context_.get(), ggml_backend_cpu_buffer_type()));
  require(buffer_ != nullptr, "no memory for a cache of ", capacity, " tokens");
  if (hadamard_ != nullptr) {
    const std::vector<float> matrix = hadamard(config.head_dim);
    ggml_backend_tensor_set(hadamard_, matrix.data(), 0, ggml_nbytes(hadamard_));
  }
}

ggml_tensor* GgmlCache::attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                                  ggml_tensor* value) {
  require(size_ + graph.tokens() <= capacity_, "the cache holds ", capacity_, " tokens at most; ",
          size_ + graph.tokens(), " were to be held");
  ggml_context* context = graph.context();
  const auto index = static_cast<size_t>(layer);
  ggml_tensor* rotated_key = rotate(graph, key);
  ggml_tensor* rotated_value = rotate(graph, value);
  ggml_tensor* keys = store(graph, rotated_key, keys_[index]);
  ggml_tensor* values = store(graph, rotated_value, values_[index]);

  const bool is_prompt = size_ == 0 && graph.tokens() > 1;
  if (is_prompt) {
    keys = ggml_permute(context, rotated_key, 0, 2, 1, 3);
    values = ggml_permute(context, rotated_value, 0, 2, 1, 3);
  }
  query = ggml_permute(context, rotate(graph, query), 0, 2, 1, 3);  // [head_dim, tokens, heads]
  const float scale = 1 / std::sqrt(static_cast<float>(config_.head_dim));
  ggml_tensor* out =
      ggml_flash_attn_ext(context, query, keys, values, graph.causal_mask(), scale, 0, 0);
  ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
  return ggml_reshape_2d(context, rotate(graph, out), config_.query_dim(), graph.tokens());
}

/// Writes `states` behind what `rows` holds and returns all of it, [head_dim, size, kv_heads].
ggml_tensor* GgmlCache::store(Graph& graph, ggml_tensor* states, ggml_tensor* rows) const {
  ggml_context* context = graph.context();
  const int64_t tokens = graph.tokens();
  ggml_tensor* target = ggml_view_2d(context, rows, config_.kv_dim(), tokens, rows->nb[1],
                                     static_cast<size_t>(size_) * rows->nb[1]);
  ggml_tensor* flat = ggml_reshape_2d(context, states, config_.kv_dim(), tokens);
  ggml_build_forward_expand(graph.nodes(), ggml_cpy(context, flat, target));
  return ggml_view_3d(context, rows, config_.head_dim, size_ + tokens, config_.kv_heads,
                      rows->nb[1], ggml_row_size(type_, config_.head_dim), 0);
}

ggml_tensor* GgmlCache::rotate(Graph& graph, ggml_tensor* states) const {
  return hadamard_ == nullptr ? states : ggml_mul_mat(graph.context(), hadamard_, states);
}

CacheBytes GgmlCache::bytes() const {
  CacheBytes bytes;
  bytes.elements = 2.0 * config_.layers * static_cast<double>(size_) * config_.kv_dim();
  const double blocks = bytes.elements / static_cast<double>(ggml_blck_size(type_));
  if (ggml_is_quantized(type_)) bytes.scales = blocks * sizeof(ggml_fp16_t);
  bytes.codes = blocks * static_cast<double>(ggml_type_size(type_)) - bytes.scales;
  if (hadamard_ != nullptr) bytes.other = static_cast<double>(ggml_nbytes(hadamard_));
  return bytes;
}

}  // namespace squat_llama
