// Small models with random weights, one of each architecture.
#pragma once

#include <ostream>
#include <string>

namespace squat_llama::test {

struct RandomModel {
  std::string architecture;
  int head_dim = 24;            ///< 24 is embedding / heads; another must be read from the metadata
  bool biases = false;          ///< of queries, keys and values
  bool head_norms = false;      ///< of queries and keys
  bool tied = false;            ///< logits come from the token embedding
  bool rotary_factors = false;  ///< all of them 4
  std::string rotary_scaling = "none";  ///< or "linear" or "yarn", by 4
  std::string extra_tensor;             ///< its name, if there is one
};

inline constexpr int kRandomVocabulary = 128;

/// For the names of tests.
void PrintTo(const RandomModel& model, std::ostream* out);

/// Writes a GGUF file in single precision.
void write_random_model(const RandomModel& model, const std::string& path);

}  // namespace squat_llama::test
