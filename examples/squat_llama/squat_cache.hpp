// The engine's keys and values in a SQuat cache.
#pragma once

#include <memory>
#include <squat/config.hpp>

#include "kv_cache.hpp"

namespace squat_llama {

/// A squat::SQuatCache<float, key_bits, value_bits> that attends on the engine's `threads`. Bits
/// are 2, 3, 4 or 8.
std::unique_ptr<KvCache> make_squat_cache(const ModelConfig& model, const squat::Config& config,
                                          int key_bits, int value_bits, int threads);

}  // namespace squat_llama
