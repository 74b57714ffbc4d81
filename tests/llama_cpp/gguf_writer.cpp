#include "gguf_writer.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

namespace squat::testing {
namespace {

constexpr std::size_t max_tensors = 4096;

/// Bell-shaped with mean 0 and deviation 1. The standard leaves open what its distributions give;
/// this is the same everywhere.
class Bell {
 public:
  Bell(std::uint32_t seed, const std::string& name) {
    std::vector<std::uint32_t> numbers{seed};
    for (const char letter : name) numbers.push_back(static_cast<unsigned char>(letter));
    std::seed_seq sequence(numbers.begin(), numbers.end());
    random_.seed(sequence);
  }

  double operator()() {
    const auto bits = static_cast<std::uint32_t>(random_());
    const auto sum = static_cast<int>((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) +
                                      (bits >> 24));  // of four bytes
    return (sum - 510) / 147.80;
  }

 private:
  std::mt19937 random_;
};

}  // namespace

GgufWriter::GgufWriter(const std::string& architecture, std::uint32_t seed)
    : prefix_(architecture + "."),
      seed_(seed),
      file_(gguf_init_empty()),
      context_(ggml_init({max_tensors * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true})) {
  text("general.architecture", architecture);
  text("general.name", "tiny random model");  // llama.cpp looks for "phi3" and others in it
}

std::string GgufWriter::full(const std::string& key) const {
  for (const char* shared : {"general.", "tokenizer.", "adapter."})
    if (key.rfind(shared, 0) == 0) return key;
  return prefix_ + key;
}

void GgufWriter::number(const std::string& key, int value) {
  gguf_set_val_u32(file_.get(), full(key).c_str(), static_cast<std::uint32_t>(value));
}

void GgufWriter::numbers(const std::string& key, const std::vector<std::int32_t>& values) {
  gguf_set_arr_data(file_.get(), full(key).c_str(), GGUF_TYPE_INT32, values.data(), values.size());
}

void GgufWriter::real(const std::string& key, float value) {
  gguf_set_val_f32(file_.get(), full(key).c_str(), value);
}

void GgufWriter::reals(const std::string& key, const std::vector<float>& values) {
  gguf_set_arr_data(file_.get(), full(key).c_str(), GGUF_TYPE_FLOAT32, values.data(),
                    values.size());
}

void GgufWriter::flag(const std::string& key, bool value) {
  gguf_set_val_bool(file_.get(), full(key).c_str(), value);
}

void GgufWriter::text(const std::string& key, const std::string& value) {
  gguf_set_val_str(file_.get(), full(key).c_str(), value.c_str());
}

void GgufWriter::texts(const std::string& key, const std::vector<std::string>& values) {
  std::vector<const char*> pointers;
  pointers.reserve(values.size());
  for (const std::string& value : values) pointers.push_back(value.c_str());
  gguf_set_arr_str(file_.get(), full(key).c_str(), pointers.data(), pointers.size());
}

void GgufWriter::tensor(const std::string& name, const std::vector<std::int64_t>& shape,
                        const std::vector<float>& values) {
  ggml_tensor* tensor =
      ggml_new_tensor(context_.get(), GGML_TYPE_F32, static_cast<int>(shape.size()), shape.data());
  ggml_set_name(tensor, name.c_str());
  if (static_cast<std::size_t>(ggml_nelements(tensor)) != values.size())
    throw std::invalid_argument("tensor " + name + " takes " +
                                std::to_string(ggml_nelements(tensor)) + " values, not " +
                                std::to_string(values.size()));
  tensor->data = values_.emplace_back(values).data();
  gguf_add_tensor(file_.get(), tensor);
}

void GgufWriter::random(const std::string& name, const std::vector<std::int64_t>& shape,
                        double mean, double deviation) {
  std::int64_t size = 1;
  for (const std::int64_t extent : shape) size *= extent;
  Bell bell(seed_, name);
  std::vector<float> values(static_cast<std::size_t>(size));
  std::generate(values.begin(), values.end(),
                [&] { return static_cast<float>(mean + deviation * bell()); });
  tensor(name, shape, values);
}

void GgufWriter::linear(const std::string& name, std::int64_t inputs, std::int64_t outputs,
                        double gain) {
  random(name + ".weight", {inputs, outputs}, 0, gain / std::sqrt(static_cast<double>(inputs)));
}

void GgufWriter::linears(const std::string& name, std::int64_t inputs, std::int64_t outputs,
                         std::int64_t experts, double gain) {
  random(name + ".weight", {inputs, outputs, experts}, 0,
         gain / std::sqrt(static_cast<double>(inputs)));
}

void GgufWriter::bias(const std::string& name, std::int64_t outputs, double deviation) {
  random(name + ".bias", {outputs}, 0, deviation);
}

void GgufWriter::norm(const std::string& name, std::int64_t channels, double mean) {
  random(name + ".weight", {channels}, mean, 0.2 * mean);
}

void GgufWriter::save(const std::string& path) const {
  if (!gguf_write_to_file(file_.get(), path.c_str(), /*only_meta=*/false))
    throw std::runtime_error("cannot write " + path);
}

}  // namespace squat::testing
