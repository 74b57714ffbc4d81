// A tiny model in llama.cpp, for tests.
#pragma once

#include <gtest/gtest.h>
#include <llama-cpp.h>
#include <unistd.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "tiny_model.hpp"

namespace squat::testing {

/// A file with a name that no other test has, for as long as this lives.
class TemporaryFile {
 public:
  TemporaryFile() {
    static int count = 0;
    path_ = ::testing::TempDir() + "squat_" + std::to_string(getpid()) + "_" +
            std::to_string(count++) + ".gguf";
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { std::remove(path_.c_str()); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// In single precision and without flash attention, as exact as llama.cpp is.
inline llama_context_params exact_context(int tokens) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<std::uint32_t>(tokens);
  params.n_batch = params.n_ubatch = params.n_ctx;
  params.n_threads = params.n_threads_batch = 1;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  return params;
}

/// A tiny model in memory.
inline llama_model_ptr tiny_model(const TinyModel& model) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  const TemporaryFile file;
  write_tiny_model(model, file.path());
  llama_model_params load = llama_model_default_params();
  load.n_gpu_layers = 0;
  llama_model_ptr loaded(llama_model_load_from_file(file.path().c_str(), load));
  if (!loaded) throw std::runtime_error("llama.cpp does not load " + model.architecture);
  return loaded;
}

/// A model from its file, and a context of it.
class TinySession {
 public:
  TinySession(const TinyModel& model, llama_context_params params)
      : vocabulary_(model.vocabulary), model_(tiny_model(model)) {
    context_.reset(llama_init_from_model(model_.get(), params));
    if (!context_) throw std::runtime_error("llama.cpp has no context for " + model.architecture);
  }
  explicit TinySession(const TinyModel& model, int tokens = 256)
      : TinySession(model, exact_context(tokens)) {}

  /// The logits after each of the tokens, which follow those before.
  std::vector<std::vector<float>> logits(std::vector<llama_token> tokens) {
    std::vector<llama_pos> positions(tokens.size());
    for (llama_pos& position : positions) position = next_++;
    std::vector<std::int8_t> wanted(tokens.size(), 1);
    llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()));
    batch.pos = positions.data();
    batch.logits = wanted.data();
    if (const int status = llama_decode(context_.get(), batch))
      throw std::runtime_error("llama_decode returns " + std::to_string(status));
    std::vector<std::vector<float>> rows;
    for (int i = 0; i < static_cast<int>(tokens.size()); ++i) {
      const float* row = llama_get_logits_ith(context_.get(), i);
      rows.emplace_back(row, row + vocabulary_);
    }
    return rows;
  }

  /// For a model with an encoder.
  void encode(std::vector<llama_token> tokens) {
    const llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()));
    if (const int status = llama_encode(context_.get(), batch))
      throw std::runtime_error("llama_encode returns " + std::to_string(status));
  }

  llama_context* context() { return context_.get(); }
  const llama_model* model() const { return model_.get(); }

 private:
  int vocabulary_;
  llama_pos next_ = 0;
  llama_model_ptr model_;
  llama_context_ptr context_;
};

/// All different where there are not more of them than of the vocabulary, but for 3.
inline std::vector<llama_token> some_tokens(int count, int vocabulary = 320) {
  std::vector<llama_token> tokens(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i)
    tokens[static_cast<std::size_t>(i)] = 3 + i * 73 % (vocabulary - 3);
  return tokens;
}

}  // namespace squat::testing
