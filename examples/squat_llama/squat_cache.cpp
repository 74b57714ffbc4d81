#include "squat_cache.hpp"

#include <squat/error.hpp>

#include "squat_cache_bits.hpp"

namespace squat_llama {

std::unique_ptr<KvCache> make_squat_cache(const ModelConfig& model, const squat::Config& config,
                                          int key_bits, int value_bits, int threads) {
  switch (key_bits) {
    case 2:
      return make_squat_cache_keys_2(model, config, value_bits, threads);
    case 3:
      return make_squat_cache_keys_3(model, config, value_bits, threads);
    case 4:
      return make_squat_cache_keys_4(model, config, value_bits, threads);
    case 8:
      return make_squat_cache_keys_8(model, config, value_bits, threads);
    default:
      squat::fail("bits of keys are " + std::to_string(key_bits) + "; known are 2, 3, 4, 8");
  }
}

}  // namespace squat_llama
