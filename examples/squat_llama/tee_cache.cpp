#include "tee_cache.hpp"

#include <algorithm>

namespace squat_llama {

ggml_tensor* TeeCache::attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                                 ggml_tensor* value) {
  ggml_tensor *rotated_query = query, *rotated_key = key;
  const auto takes_rotated = [](const KvCache* cache) { return !cache->applies_rope(); };
  if (applies_rope() && std::any_of(caches_.begin(), caches_.end(), takes_rotated)) {
    rotated_query = graph.rotated(query);
    rotated_key = graph.rotated(key);
  }
  ggml_tensor* first = nullptr;
  for (KvCache* cache : caches_) {
    const bool rotated = takes_rotated(cache);
    ggml_tensor* out = cache->attention(graph, layer, rotated ? rotated_query : query,
                                        rotated ? rotated_key : key, value);
    if (first == nullptr) {
      first = out;
    } else if (cache->stores_by_attending()) {
      ggml_build_forward_expand(graph.nodes(), out);
    }
  }
  return first;
}

bool TeeCache::applies_rope() const {
  return std::any_of(caches_.begin(), caches_.end(),
                     [](const KvCache* cache) { return cache->applies_rope(); });
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

void TeeCache::next_sequence() {
  for (KvCache* cache : caches_) cache->next_sequence();
}

}  // namespace squat_llama
