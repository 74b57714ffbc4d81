// Fills several caches with one pass of the model.
#pragma once

#include <vector>

#include "kv_cache.hpp"

namespace squat_llama {

/// The model attends by the first of `caches`; the others are given the same keys and values, after
/// RoPE or before it as each of them takes them. The caches must hold equally many tokens, and
/// outlive this.
class TeeCache : public KvCache {
 public:
  explicit TeeCache(std::vector<KvCache*> caches) : caches_(std::move(caches)) {}

  ggml_tensor* attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                         ggml_tensor* value) override;
  bool applies_rope() const override;
  int nodes_per_layer() const override;
  void finish(int64_t tokens) override;
  int64_t size() const override { return caches_.front()->size(); }
  void clear() override;
  void next_sequence() override;
  CacheBytes bytes() const override { return caches_.front()->bytes(); }

 private:
  std::vector<KvCache*> caches_;
};

}  // namespace squat_llama
