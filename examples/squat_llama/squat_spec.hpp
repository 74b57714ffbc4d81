// A SQuat cache that is asked for.
#pragma once

#include <squat/config.hpp>
#include <string>

namespace squat_llama {

struct SquatSpec {
  squat::Config config;
  bool calibrated = false;  ///< the metric comes from SessionOptions::moments, not from the prompt
  /// Of squat+:MEANBITS: the length of text that bytes are divided for, as Config::recommended has
  /// it.
  squat::Index context_tokens = 0;
  std::string layer_costs = {};  ///< a file by which bits are divided among layers, or empty
};

}  // namespace squat_llama
