#include "tee_cache.hpp"

namespace squat_llama {

ggml_tensor* TeeCache::attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                                 ggml_tensor* value) {
  ggml_tensor* out = caches_.front()->attention(graph, layer, query, key, value);
  for (std::size_t i = 1; i < caches_.size(); ++i) {
    ggml_tensor* unused = caches_[i]->attention(graph, layer, query, key, value);
    if (caches_[i]->stores_by_attending()) ggml_build_forward_expand(graph.nodes(), unused);
  }
  return out;
}

int TeeCache::nodes_per_layer() const {
  int nodes = 0;
  for (const KvCache* cache : caches_) nodes += cache->nodes_per_layer();
  return nodes;
}

void TeeCache::finish(int64_t tokens) {
  for (KvCache* cache : caches_) cache->finish(tokens);
}

void TeeCache::clear() {
  for (KvCache* cache : caches_) cache->clear();
}

}  // namespace squat_llama
