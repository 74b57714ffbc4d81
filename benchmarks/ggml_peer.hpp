// ggml's flash attention over a cache of one of its types, with everything but the computation done
// beforehand.
#pragma once

#include <ggml-cpu.h>
#include <ggml.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "attention_shape.hpp"

namespace benchmarks {

/// How a ggml cache lies in memory.
enum class CacheLayout {
  tokens_outermost,  ///< [tokens, kv_heads, head_dim], as llama.cpp has it: a head's rows lie apart
  heads_outermost,   ///< [kv_heads, tokens, head_dim]: what a head reads is contiguous
};

/// Several layers of a ggml cache with the same contents. One graph of one node,
/// ggml_flash_attn_ext, serves them all.
class GgmlAttention {
 public:
  /// Quantizes `keys` and `values` ([tokens, kv_heads * head_dim]) as ggml writes its cache.
  GgmlAttention(const AttentionShape& shape, CacheLayout layout, ggml_type key_type,
                ggml_type value_type, const float* keys, const float* values, int layers,
                int threads)
      : shape_(shape), layout_(layout) {
    ggml_cpu_init();
    for (int layer = 0; layer < layers; ++layer) {
      keys_.push_back(layer == 0 ? quantized(key_type, keys) : copied(keys_[0], key_type));
      values_.push_back(layer == 0 ? quantized(value_type, values)
                                   : copied(values_[0], value_type));
    }
    bytes_per_token_ = ggml_row_size(key_type, width()) + ggml_row_size(value_type, width());
    build_graph(key_type, value_type);

    ggml_threadpool_params pool_params = ggml_threadpool_params_default(threads);
    pool_params.paused = true;
    pool_.reset(ggml_threadpool_new(&pool_params));
    plan_ = ggml_graph_plan(graph_, threads, pool_.get());
    work_.resize(plan_.work_size);
    plan_.work_data = work_.data();
  }

  GgmlAttention(const GgmlAttention&) = delete;
  GgmlAttention& operator=(const GgmlAttention&) = delete;

  /// `queries` and `out` are [query_rows, query_heads * head_dim].
  void run(int layer, const float* queries, float* out) {
    query_->data = const_cast<float*>(queries);  // a leaf of the graph: only read
    key_->data = keys_[static_cast<std::size_t>(layer)].get();
    value_->data = values_[static_cast<std::size_t>(layer)].get();
    out_->data = out;
    if (ggml_graph_compute(graph_, &plan_) != GGML_STATUS_SUCCESS)
      throw std::runtime_error("ggml_graph_compute failed");
  }

  /// Idle threads of ggml poll for work and would disturb whatever runs next: they do so only
  /// between resume() and pause().
  void resume() { ggml_threadpool_resume(pool_.get()); }
  void pause() { ggml_threadpool_pause(pool_.get()); }

  /// Keys and values of one token and layer.
  std::size_t bytes_per_token() const { return bytes_per_token_; }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
    void operator()(ggml_context* context) const { ggml_free(context); }
    void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
  };
  using Buffer = std::unique_ptr<void, Free>;

  std::int64_t width() const { return static_cast<std::int64_t>(shape_.kv_width()); }
  std::size_t buffer_size(ggml_type type) const {
    return ggml_row_size(type, width()) * static_cast<std::size_t>(shape_.tokens);
  }

  static Buffer allocated(std::size_t size) {
    constexpr std::size_t page = 4096;
    void* memory = std::aligned_alloc(page, (size + page - 1) / page * page);
    if (memory == nullptr) throw std::bad_alloc();
    return Buffer(memory);
  }

  Buffer quantized(ggml_type type, const float* rows) const {
    Buffer buffer = allocated(buffer_size(type));
    const std::size_t row_size = ggml_row_size(type, shape_.head_dim);
    const auto tokens = static_cast<std::size_t>(shape_.tokens);
    const auto heads = static_cast<std::size_t>(shape_.kv_heads);
    for (std::size_t token = 0; token < tokens; ++token)
      for (std::size_t head = 0; head < heads; ++head) {
        const std::size_t row =
            layout_ == CacheLayout::tokens_outermost ? token * heads + head : head * tokens + token;
        ggml_get_type_traits_cpu(type)->from_float(
            rows + token * shape_.kv_width() + head * static_cast<std::size_t>(shape_.head_dim),
            static_cast<char*>(buffer.get()) + row * row_size, shape_.head_dim);
      }
    return buffer;
  }

  Buffer copied(const Buffer& from, ggml_type type) const {
    Buffer buffer = allocated(buffer_size(type));
    std::memcpy(buffer.get(), from.get(), buffer_size(type));
    return buffer;
  }

  /// A tensor of the shape that ggml_flash_attn_ext takes ([heads, rows, head_dim], outermost
  /// first) over memory of either layout.
  ggml_tensor* tensor_over(ggml_type type, CacheLayout layout, int rows, int heads) {
    ggml_tensor* tensor = ggml_new_tensor_3d(context_.get(), type, shape_.head_dim, rows, heads);
    if (layout == CacheLayout::tokens_outermost) {
      tensor->nb[2] = ggml_row_size(type, shape_.head_dim);
      tensor->nb[1] = tensor->nb[2] * static_cast<std::size_t>(heads);
    }
    return tensor;
  }

  void build_graph(ggml_type key_type, ggml_type value_type) {
    constexpr std::size_t tensors = 8;
    context_.reset(ggml_init({tensors * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr,
                              /*no_alloc=*/true}));
    query_ = tensor_over(GGML_TYPE_F32, CacheLayout::tokens_outermost, shape_.query_rows,
                         shape_.query_heads);
    key_ = tensor_over(key_type, layout_, shape_.tokens, shape_.kv_heads);
    value_ = tensor_over(value_type, layout_, shape_.tokens, shape_.kv_heads);
    ggml_tensor* mask = nullptr;  // decoding sees every token
    if (shape_.query_rows > 1) {
      mask = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F16, shape_.tokens, shape_.query_rows);
      mask_ = causal_mask();
      mask->data = mask_.data();
    }
    out_ = ggml_flash_attn_ext(context_.get(), query_, key_, value_, mask, shape_.softmax_scale(),
                               /*max_bias=*/0.0f, /*logit_softcap=*/0.0f);
    ggml_flash_attn_ext_set_prec(out_, GGML_PREC_F32);  // as llama.cpp does
    graph_ = ggml_new_graph(context_.get());
    ggml_build_forward_expand(graph_, out_);
  }

  std::vector<ggml_fp16_t> causal_mask() const {
    const auto tokens = static_cast<std::size_t>(shape_.tokens);
    const auto rows = static_cast<std::size_t>(shape_.query_rows);
    std::vector<ggml_fp16_t> mask(rows * tokens, ggml_fp32_to_fp16(0.0f));
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t token = tokens - rows + row + 1; token < tokens; ++token)
        mask[row * tokens + token] = ggml_fp32_to_fp16(-INFINITY);
    return mask;
  }

  AttentionShape shape_;
  CacheLayout layout_;
  std::size_t bytes_per_token_ = 0;
  std::vector<Buffer> keys_, values_;  // one a layer
  std::vector<ggml_fp16_t> mask_;
  std::unique_ptr<ggml_context, Free> context_;
  ggml_tensor* query_ = nullptr;
  ggml_tensor* key_ = nullptr;
  ggml_tensor* value_ = nullptr;
  ggml_tensor* out_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  std::unique_ptr<ggml_threadpool, Free> pool_;
  std::vector<std::uint8_t> work_;
  ggml_cplan plan_{};
};

}  // namespace benchmarks
