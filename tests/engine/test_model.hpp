// The model and text that some tests need.
#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace squat_llama::test {

/// SmolLM2-135M-Instruct.Q4_1.gguf, or empty: tests that need it skip.
inline std::string model_path() {
  const std::string path = SQUAT_TEST_MODEL;
  return std::ifstream(path).good() ? path : "";
}

inline constexpr const char* kNoModel =
    "needs a model: configure with -DSQUAT_TEST_MODEL=FILE (examples/install_model installs one)";

inline std::string data_path(const std::string& name) { return SQUAT_ENGINE_TEST_DATA "/" + name; }

inline std::string text() {
  std::ifstream file(data_path("jargon.txt"), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// 4096 tokens of the Jargon File; all but the first are those of text().
inline std::vector<int> tokens() {
  std::ifstream file(data_path("jargon_tokens.npy"), std::ios::binary);
  file.seekg(128);  // the header of a .npy file of int32
  std::vector<std::int32_t> numbers(4096);
  file.read(reinterpret_cast<char*>(numbers.data()),
            static_cast<std::streamsize>(numbers.size() * sizeof(std::int32_t)));
  return {numbers.begin(), numbers.end()};
}

}  // namespace squat_llama::test

#define SKIP_WITHOUT_MODEL() \
  if (squat_llama::test::model_path().empty()) GTEST_SKIP() << squat_llama::test::kNoModel
