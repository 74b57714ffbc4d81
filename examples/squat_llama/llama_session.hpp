// llama.cpp's own forward pass, with its own cache, to compare with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace squat_llama {

/// One text that llama.cpp reads.
class LlamaSession {
 public:
  struct Options {
    std::int64_t capacity = 512;     ///< most tokens
    std::string cache_type = "f16";  ///< of keys and values: f16, q8_0 or q4_0
    bool flash_attention = true;
    int threads = 1;
  };
  LlamaSession(const std::string& model_path, const Options& options);
  ~LlamaSession();

  /// Reads `tokens` after what it has read, in passes of at most 512. Returns the logits
  /// [vocabulary] of the last, or of all [tokens, vocabulary].
  std::vector<float> forward(const std::vector<int>& tokens, bool all_logits = false);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace squat_llama
