// The engine's keys and values in a SQuat cache.
#pragma once

#include <memory>
#include <squat/config.hpp>

#include "kv_cache.hpp"

namespace squat_llama {

/// A squat::SQuatCache, or one for each of `threads` shares of the kv heads.
std::unique_ptr<KvCache> make_squat_cache(const ModelConfig& model, const squat::Config& config,
                                          int threads);

}  // namespace squat_llama
