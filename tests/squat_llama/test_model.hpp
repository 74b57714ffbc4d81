// The models that tests read with.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "model.hpp"
#include "tiny_session.hpp"

namespace squat_llama::test {

/// A model with random weights, as squat_llama loads it.
inline Model tiny(const squat::testing::TinyModel& description = {}) {
  const squat::testing::TemporaryFile file;
  squat::testing::write_tiny_model(description, file.path());
  return {file.path(), Weights::as_stored, /*threads=*/1};
}

/// SmolLM2-135M-Instruct.Q4_1.gguf, or empty: tests that need it skip.
inline std::string model_path() {
  const std::string path = SQUAT_TEST_MODEL;
  return std::ifstream(path).good() ? path : "";
}

inline constexpr const char* kNoModel =
    "needs a model: configure with -DSQUAT_TEST_MODEL=FILE (examples/install_gguf installs one)";

/// 4096 tokens of the Jargon File.
inline std::vector<Token> tokens() {
  std::ifstream file(SQUAT_LLAMA_TEST_DATA "/jargon_tokens.npy", std::ios::binary);
  file.seekg(128);  // the header of a .npy file of int32
  std::vector<std::int32_t> numbers(4096);
  file.read(reinterpret_cast<char*>(numbers.data()),
            static_cast<std::streamsize>(numbers.size() * sizeof(std::int32_t)));
  return {numbers.begin(), numbers.end()};
}

}  // namespace squat_llama::test

#define SKIP_WITHOUT_MODEL() \
  if (squat_llama::test::model_path().empty()) GTEST_SKIP() << squat_llama::test::kNoModel
