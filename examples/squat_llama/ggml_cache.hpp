// Caches in ggml's own formats, read by ggml's own attention.
#pragma once

#include <ggml-cpp.h>

#include <vector>

#include "kv_cache.hpp"

namespace squat_llama {

/// What is done to keys and values (and queries, to match) before they are quantized.
enum class Rotation {
  none,
  hadamard,  ///< spreads a channel's outliers over its head
};

/// Every token is quantized as it comes. The first pass, the prompt, attends to itself exactly.
class GgmlCache : public KvCache {
 public:
  /// `type` holds keys and values; `capacity` is the most tokens that fit.
  GgmlCache(const ModelConfig& config, ggml_type type, Rotation rotation, int64_t capacity);

  ggml_tensor* attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                         ggml_tensor* value) override;
  void finish(int64_t tokens) override { size_ += tokens; }
  int64_t size() const override { return size_; }
  void clear() override { size_ = 0; }
  CacheBytes bytes() const override;

 private:
  ggml_tensor* store(Graph& graph, ggml_tensor* states, ggml_tensor* rows) const;
  ggml_tensor* rotate(Graph& graph, ggml_tensor* states) const;

  ModelConfig config_;
  ggml_type type_;
  int64_t capacity_;
  int64_t size_ = 0;
  ggml_context_ptr context_;
  ggml_backend_buffer_ptr buffer_;
  std::vector<ggml_tensor*> keys_;    ///< a layer's [kv_heads * head_dim, capacity]
  std::vector<ggml_tensor*> values_;  ///< likewise
  ggml_tensor* hadamard_ = nullptr;   ///< [head_dim, head_dim], symmetric and orthogonal
};

}  // namespace squat_llama
