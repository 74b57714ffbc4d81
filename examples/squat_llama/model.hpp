// A language model in llama.cpp, and how it reads text.
#pragma once

#include <llama-cpp.h>

#include <string>
#include <vector>

namespace squat_llama {

using Token = llama_token;

enum class Weights {
  as_stored,  ///< products with quantized weights round activations to 8 bits
  single      ///< dequantized: products are exact, in single precision
};

class Model {
 public:
  /// Loads a GGUF file, for `threads` threads. Weights::single has llama.cpp write the model in
  /// single precision to a temporary file, four bytes a weight, which is gone when this returns.
  Model(const std::string& path, Weights weights, int threads);

  llama_model* get() const { return model_.get(); }
  int threads() const { return threads_; }
  int vocabulary() const;

  /// Tokens of a text, after leading_token() where the model has one.
  std::vector<Token> encode(const std::string& text) const;
  /// What every text begins with, or -1.
  Token leading_token() const;

 private:
  llama_model_ptr model_;
  int threads_;
};

}  // namespace squat_llama
