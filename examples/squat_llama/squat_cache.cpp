#include "squat_cache.hpp"

#include "squat_cache_adapter.hpp"

namespace squat_llama {

std::unique_ptr<KvCache> make_squat_cache(const ModelConfig& model, const squat::Config& config,
                                          int threads) {
  return std::make_unique<SquatCacheAdapter>(model, config, threads);
}

}  // namespace squat_llama
