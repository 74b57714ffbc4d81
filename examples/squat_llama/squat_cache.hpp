// The engine's keys and values in a SQuat cache.
#pragma once

#include <memory>
#include <squat/config.hpp>
#include <string>

#include "kv_cache.hpp"

namespace squat_llama {

/// A squat::SQuatCache and how the engine uses it.
struct SquatSpec {
  squat::Config config;
  bool pre_rope = false;    ///< keys are stored before RoPE, which the cache applies
  bool calibrated = false;  ///< the metric comes from CacheOptions::moments, not from the prompt
  std::string layer_costs = {};  ///< a file by which bits are divided among layers, or empty
};

/// Fails where `spec` is calibrated and there are no moments.
std::unique_ptr<KvCache> make_squat_cache(const ModelConfig& model, const SquatSpec& spec,
                                          const CacheOptions& options);

}  // namespace squat_llama
