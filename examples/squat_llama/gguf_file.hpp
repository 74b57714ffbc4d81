// A GGUF file: metadata by key, tensors by name.
#pragma once

#include <ggml-cpp.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace squat_llama {

/// In what precision the engine computes with a file's weights.
enum class Weights {
  as_stored,  ///< ggml's products with quantized weights quantize activations too, to 8 bits
  single,     ///< dequantized when loaded: exact products, several times the memory
};

/// Reads the whole file into memory. Every error names the file and the key or tensor.
class GgufFile {
 public:
  GgufFile(const std::string& path, Weights weights);

  /// The value at `key`, or nothing where the file does not have it.
  std::optional<double> find_number(const std::string& key) const;
  std::optional<std::string> find_text(const std::string& key) const;

  /// The same, but a missing key is an error.
  double number(const std::string& key) const;
  std::string text(const std::string& key) const;

  /// The tensor called `name`, or null. The file owns it.
  ggml_tensor* find_tensor(const std::string& name);
  ggml_tensor* tensor(const std::string& name);

  /// Names that nobody has asked for: a model whose reader leaves some is not the model it expects.
  std::vector<std::string> unread_tensors() const;

  const std::string& path() const { return path_; }

 private:
  void dequantize();

  std::string path_;
  gguf_context_ptr metadata_;
  ggml_context_ptr tensors_;
  std::set<std::string> read_;
};

}  // namespace squat_llama
