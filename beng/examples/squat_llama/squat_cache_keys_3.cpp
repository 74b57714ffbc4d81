// Generated. Caches whose keys have 3 bits.
#include "squat_cache_adapter.hpp"
#include "squat_cache_bits.hpp"

namespace squat_llama {

std::unique_ptr<KvCache> make_squat_cache_keys_3(const ModelConfig& model,
                                                 const squat::Config& config, int value_bits,
                                                 int threads) {
  return make_squat_cache_adapter<3>(model, config, value_bits, threads);
}

}  // namespace squat_llama
