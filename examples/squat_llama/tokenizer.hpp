// Text to tokens and back, by llama.cpp's tokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace squat_llama {

/// The tokenizer of a GGUF file. libllama is loaded beside ggml: it brings a ggml of its own, whose
/// names must not mix with ours, so nothing links against it.
class Tokenizer {
 public:
  explicit Tokenizer(const std::string& model_path);
  ~Tokenizer();

  /// Tokens of `text`. Names of control tokens in it are read as such only if `parse_special`.
  /// A leading BOS is added if the file asks for one.
  std::vector<int> encode(const std::string& text, bool parse_special = false) const;
  /// The bytes of one token: perhaps part of a UTF-8 character, nothing for a control token.
  std::string decode(int token) const;

  /// One user message in the model's chat template, up to where the answer begins.
  std::string chat(const std::string& message) const;
  bool ends_generation(int token) const;
  /// The token that begins every text, or -1 where the file does not ask for one.
  int leading_token() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace squat_llama
