// Small models with random weights, one of each architecture.
#pragma once

#include <string>

namespace squat_llama::test {

struct RandomModel {
  std::string architecture;
  bool biases = false;      ///< of queries, keys and values
  bool head_norms = false;  ///< of queries and keys
  bool tied = false;        ///< logits come from the token embedding
  bool rotary_factors = false;
  std::string rotary_scaling = "none";
  std::string extra_tensor;  ///< its name, if there is one
};

inline constexpr int kRandomVocabulary = 128;

/// Writes a GGUF file in single precision.
void write_random_model(const RandomModel& model, const std::string& path);

}  // namespace squat_llama::test
