// Generated. Caches whose keys have 2 bits.
#include "squat_cache_adapter.hpp"
#include "squat_cache_bits.hpp"

namespace squat_llama {

std::unique_ptr<KvCache> make_squat_cache_keys_2(const ModelConfig& model,
                                                 const squat::Config& config, int value_bits,
                                                 int threads) {
  return make_squat_cache_adapter<2>(model, config, value_bits, threads);
}

}  // namespace squat_llama
