#include "random_model.hpp"

#include <ggml-cpp.h>

#include <random>
#include <vector>

namespace squat_llama::test {
namespace {

constexpr int kLayers = 2, kEmbedding = 96, kFeedForward = 160, kQueryHeads = 4, kKvHeads = 2;

class Writer {
 public:
  explicit Writer(const std::string& architecture)
      : prefix_(architecture + "."),
        file_(gguf_init_empty()),
        context_(ggml_init({16 << 20, nullptr, /*no_alloc=*/false})) {
    gguf_set_val_str(file_.get(), "general.architecture", architecture.c_str());
    gguf_set_val_str(file_.get(), "tokenizer.ggml.model", "no_vocab");
  }

  void number(const std::string& key, int value) {
    gguf_set_val_u32(file_.get(), (prefix_ + key).c_str(), static_cast<uint32_t>(value));
  }
  void real(const std::string& key, float value) {
    gguf_set_val_f32(file_.get(), (prefix_ + key).c_str(), value);
  }
  void text(const std::string& key, const std::string& value) {
    gguf_set_val_str(file_.get(), (prefix_ + key).c_str(), value.c_str());
  }

  /// Numbers around `mean`.
  void tensor(const std::string& name, std::vector<int64_t> shape, float mean, float deviation) {
    ggml_tensor* tensor = ggml_new_tensor(context_.get(), GGML_TYPE_F32,
                                          static_cast<int>(shape.size()), shape.data());
    ggml_set_name(tensor, name.c_str());
    std::normal_distribution<float> normal(mean, deviation);
    auto* data = static_cast<float*>(tensor->data);
    for (int64_t i = 0; i < ggml_nelements(tensor); ++i) data[i] = normal(random_);
    gguf_add_tensor(file_.get(), tensor);
  }

  void save(const std::string& path) { gguf_write_to_file(file_.get(), path.c_str(), false); }

 private:
  std::string prefix_;
  gguf_context_ptr file_;
  ggml_context_ptr context_;
  std::mt19937 random_{7};
};

void write_layer(Writer& writer, const RandomModel& model, int layer) {
  const std::string block = "blk." + std::to_string(layer) + ".";
  const auto linear = [&](const std::string& name, int inputs, int outputs, bool bias) {
    writer.tensor(block + name + ".weight", {inputs, outputs}, 0, 0.15f);
    if (bias) writer.tensor(block + name + ".bias", {outputs}, 0, 0.5f);
  };
  const auto norm = [&](const std::string& name, int channels) {
    writer.tensor(block + name + ".weight", {channels}, 1, 0.2f);
  };
  norm("attn_norm", kEmbedding);
  linear("attn_q", kEmbedding, kQueryHeads * model.head_dim, model.biases);
  linear("attn_k", kEmbedding, kKvHeads * model.head_dim, model.biases);
  linear("attn_v", kEmbedding, kKvHeads * model.head_dim, model.biases);
  linear("attn_output", kQueryHeads * model.head_dim, kEmbedding, false);
  if (model.head_norms) norm("attn_q_norm", model.head_dim);
  if (model.head_norms) norm("attn_k_norm", model.head_dim);
  norm("ffn_norm", kEmbedding);
  linear("ffn_gate", kEmbedding, kFeedForward, false);
  linear("ffn_up", kEmbedding, kFeedForward, false);
  linear("ffn_down", kFeedForward, kEmbedding, false);
}

}  // namespace

void PrintTo(const RandomModel& model, std::ostream* out) { *out << model.architecture; }

void write_random_model(const RandomModel& model, const std::string& path) {
  Writer writer(model.architecture);
  writer.number("vocab_size", kRandomVocabulary);
  writer.number("block_count", kLayers);
  writer.number("context_length", 256);
  writer.number("embedding_length", kEmbedding);
  writer.number("feed_forward_length", kFeedForward);
  writer.number("attention.head_count", kQueryHeads);
  writer.number("attention.head_count_kv", kKvHeads);
  writer.number("attention.key_length", model.head_dim);
  writer.number("attention.value_length", model.head_dim);
  writer.number("rope.dimension_count", model.head_dim);
  writer.real("rope.freq_base", 5000);
  writer.real("attention.layer_norm_rms_epsilon", 1e-5f);
  if (model.rotary_scaling != "none") {
    writer.text("rope.scaling.type", model.rotary_scaling);
    writer.real("rope.scaling.factor", 4);
    writer.number("rope.scaling.original_context_length", 64);
  }
  writer.tensor("token_embd.weight", {kEmbedding, kRandomVocabulary}, 0, 1);
  for (int layer = 0; layer < kLayers; ++layer) write_layer(writer, model, layer);
  writer.tensor("output_norm.weight", {kEmbedding}, 1, 0.2f);
  if (!model.tied) writer.tensor("output.weight", {kEmbedding, kRandomVocabulary}, 0, 0.3f);
  if (model.rotary_factors) writer.tensor("rope_freqs.weight", {model.head_dim / 2}, 4, 0);
  if (!model.extra_tensor.empty()) writer.tensor(model.extra_tensor, {kQueryHeads}, 0, 1);
  writer.save(path);
}

}  // namespace squat_llama::test
