// The engine's keys and values in a SQuat cache.
#pragma once

#include <memory>
#include <squat/config.hpp>

#include "kv_cache.hpp"

namespace squat_llama {

/// A squat::SQuatCache that attends on the engine's `threads`.
std::unique_ptr<KvCache> make_squat_cache(const ModelConfig& model, const squat::Config& config,
                                          int threads);

}  // namespace squat_llama
