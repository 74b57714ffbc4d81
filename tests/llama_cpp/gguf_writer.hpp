// Writes GGUF files whose weights are random.
#pragma once

#include <ggml-cpp.h>

#include <cstdint>
#include <list>
#include <string>
#include <vector>

namespace squat::testing {

/// Every tensor has its own random numbers, from the seed and its name: another key or tensor
/// changes no weight. The same seed gives the same file.
class GgufWriter {
 public:
  GgufWriter(const std::string& architecture, std::uint32_t seed);

  /// Keys that do not begin with "general.", "tokenizer." or "adapter." get the architecture's
  /// prefix.
  void number(const std::string& key, int value);
  void numbers(const std::string& key, const std::vector<std::int32_t>& values);
  void real(const std::string& key, float value);
  void reals(const std::string& key, const std::vector<float>& values);
  void flag(const std::string& key, bool value);
  void text(const std::string& key, const std::string& value);
  void texts(const std::string& key, const std::vector<std::string>& values);

  /// In single precision, the fastest dimension first.
  void tensor(const std::string& name, const std::vector<std::int64_t>& shape,
              const std::vector<float>& values);
  /// Numbers around `mean`.
  void random(const std::string& name, const std::vector<std::int64_t>& shape, double mean,
              double deviation);

  /// `name`.weight: inputs of deviation 1 give outputs of deviation `gain`.
  void linear(const std::string& name, std::int64_t inputs, std::int64_t outputs, double gain = 1);
  /// The same for each of `experts`.
  void linears(const std::string& name, std::int64_t inputs, std::int64_t outputs,
               std::int64_t experts, double gain = 1);
  /// `name`.bias
  void bias(const std::string& name, std::int64_t outputs, double deviation = 0.2);
  /// `name`.weight: what a normalization multiplies its channels with.
  void norm(const std::string& name, std::int64_t channels, double mean = 1);

  void save(const std::string& path) const;

 private:
  std::string full(const std::string& key) const;

  std::string prefix_;
  std::uint32_t seed_;
  gguf_context_ptr file_;
  ggml_context_ptr context_;              // describes the tensors
  std::list<std::vector<float>> values_;  // which the tensors point to
};

}  // namespace squat::testing
