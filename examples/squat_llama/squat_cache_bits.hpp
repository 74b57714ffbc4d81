// SQuat caches by the bits of their keys. Each is compiled in a source of its own.
#pragma once

#include <memory>
#include <squat/config.hpp>

#include "kv_cache.hpp"

namespace squat_llama {

using SquatCacheMaker = std::unique_ptr<KvCache>(const ModelConfig& model,
                                                 const squat::Config& config, int value_bits,
                                                 int threads);
SquatCacheMaker make_squat_cache_keys_2, make_squat_cache_keys_3, make_squat_cache_keys_4,
    make_squat_cache_keys_8;

}  // namespace squat_llama
