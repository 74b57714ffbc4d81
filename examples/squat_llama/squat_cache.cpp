#include "squat_cache.hpp"

#include "squat_cache_adapter.hpp"

namespace squat_llama {

std::unique_ptr<KvCache> make_squat_cache(const ModelConfig& model, const SquatSpec& spec,
                                          const CacheOptions& options) {
  return std::make_unique<SquatCacheAdapter>(model, spec, options);
}

}  // namespace squat_llama
