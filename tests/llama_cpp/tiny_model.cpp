#include "tiny_model.hpp"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "tiny_layers.hpp"
#include "tiny_vocabulary.hpp"

namespace squat::testing {
namespace {

struct Architecture {
  void (*write)(GgufWriter&, const TinyModel&);
  int layers = 2;
  bool narrow = false;    ///< embedding must be heads * head_dim
  bool unshared = false;  ///< kv_heads must be heads
  int window_period = 0;  ///< 0: no windows
};

const std::map<std::string, Architecture>& architectures() {
  static const std::map<std::string, Architecture> all{
      {"llama", {write_tiny_decoder}},
      {"qwen2", {write_tiny_decoder, 2, true}},
      {"qwen3", {write_tiny_decoder}},
      {"phi3", {write_tiny_decoder, 2, true}},
      {"gemma3", {write_tiny_decoder, 7, false, false, 6}},
      {"gemma2", {write_tiny_decoder, 2, false, false, 2}},
      {"gemma4", {write_tiny_decoder, 6, false, false, 2}},
      {"cohere2", {write_tiny_decoder, 4, true, false, 4}},
      {"llama4", {write_tiny_decoder, 4}},
      {"qwen2vl", {write_tiny_decoder, 2, true}},
      {"qwen3vl", {write_tiny_decoder}},
      {"gpt-oss", {write_tiny_gpt_oss, 2, false, false, 2}},
      {"deepseek2", {write_tiny_deepseek2, 2, false, true}},
      {"bloom", {write_tiny_bloom, 2, true, true}},
      {"jamba", {write_tiny_jamba, 2, true}},
      {"granitehybrid", {write_tiny_granite_hybrid, 2, true}},
      {"lfm2", {write_tiny_lfm2, 4, true}},
      {"qwen35", {write_tiny_qwen35}},
      {"mamba", {write_tiny_mamba}},
      {"bert", {write_tiny_bert, 2, true}},
      {"t5", {write_tiny_t5, 2, false, true}},
  };
  return all;
}

const Architecture& find(const std::string& name) {
  const auto found = architectures().find(name);
  if (found != architectures().end()) return found->second;
  std::string known;
  for (const auto& [architecture, details] : architectures()) known += " " + architecture;
  throw std::invalid_argument("architecture must be one of" + known + ", not " + name);
}

/// Throws unless `fulfilled`.
void require(bool fulfilled, const std::string& argument, const std::string& value,
             const std::string& allowed) {
  if (!fulfilled) throw std::invalid_argument(argument + " must be " + allowed + ", not " + value);
}

void require(bool fulfilled, const std::string& argument, int value, const std::string& allowed) {
  require(fulfilled, argument, std::to_string(value), allowed);
}

void write_rotary(GgufWriter& writer, const TinyModel& model) {
  writer.number("rope.dimension_count", model.rotary_dim);
  // Gemma 3's layers with windows keep 10000.
  writer.real("rope.freq_base", model.architecture == "gemma3" ? 1e6f : 1e4f);
  if (model.rotary_scaling == "none") return;
  writer.text("rope.scaling.type", model.rotary_scaling);
  writer.real("rope.scaling.factor", 4);
  writer.number("rope.scaling.original_context_length", model.context_length / 4);
}

void write_sizes(GgufWriter& writer, const TinyModel& model) {
  writer.number("block_count", model.layers);
  writer.number("context_length", model.context_length);
  writer.number("embedding_length", model.embedding);
  writer.number("feed_forward_length", model.feed_forward);
  writer.number("attention.head_count", model.heads);
  writer.number("attention.head_count_kv", model.kv_heads);
  writer.number("attention.key_length", model.head_dim);
  writer.number("attention.value_length", model.head_dim);
  writer.real("attention.layer_norm_rms_epsilon", 1e-6f);
  writer.real("attention.layer_norm_epsilon", 1e-6f);
  const int period = find(model.architecture).window_period;
  if (period == 0) return;
  writer.number("attention.sliding_window", model.window);
  if (model.window_period != period && model.architecture != "gemma4")
    writer.number("attention.sliding_window_pattern", model.window_period);
}

void write_classifier(GgufWriter& writer, const TinyModel& model) {
  std::vector<std::string> names;
  for (int label = 0; label < model.labels; ++label) names.push_back(std::to_string(label));
  writer.texts("classifier.output_labels", names);
  writer.linear("cls.output", model.embedding, model.labels);
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const TinyModel& model) {
  return out << model.architecture << " of " << model.head_dim;
}

const std::vector<std::string>& tiny_decoders() {
  static const std::vector<std::string> all{
      "llama",     "qwen2",  "qwen3",  "phi3",          "gemma3", "qwen2vl",
      "qwen3vl",   "gemma2", "gemma4", "cohere2",       "llama4", "gpt-oss",
      "deepseek2", "bloom",  "jamba",  "granitehybrid", "lfm2",   "qwen35"};
  return all;
}

std::vector<TinyModel> tiny_models(const std::vector<std::string>& architectures) {
  std::vector<TinyModel> models;
  for (const std::string& architecture : architectures)
    models.emplace_back().architecture = architecture;
  return models;
}

std::vector<TinyModel> tiny_rotary_variants() {
  std::vector<TinyModel> models = tiny_models({"llama", "llama", "llama", "phi3", "deepseek2"});
  models[0].rotary_scaling = "linear";
  models[1].rotary_scaling = "yarn";
  models[2].rotary_factors = true;
  models[3].rotary_dim = 48;
  models[4].latent_cache = false;
  return models;
}

const std::vector<std::string>& tiny_encoders() {
  static const std::vector<std::string> all{"bert", "t5"};
  return all;
}

TinyModel completed(TinyModel model) {
  const Architecture& architecture = find(model.architecture);
  const int width = model.heads * model.head_dim;
  require(model.heads > 0, "heads", model.heads, "positive");
  require(model.head_dim > 0 && model.head_dim % 2 == 0, "head_dim", model.head_dim,
          "positive and even");
  if (model.layers == 0) model.layers = architecture.layers;
  if (model.kv_heads == 0)
    model.kv_heads = architecture.unshared ? model.heads : std::max(1, model.heads / 2);
  if (model.embedding == 0) model.embedding = architecture.narrow ? width : 192;
  if (model.window_period == 0) model.window_period = architecture.window_period;
  if (model.rotary_dim == 0) model.rotary_dim = model.head_dim;
  if (model.architecture == "gemma4" && model.reading_layers == 0) model.reading_layers = 2;

  require(model.layers > 0, "layers", model.layers, "positive");
  require(model.kv_heads > 0 && model.heads % model.kv_heads == 0, "kv_heads", model.kv_heads,
          "a divisor of heads, " + std::to_string(model.heads));
  require(!architecture.unshared || model.kv_heads == model.heads, "kv_heads", model.kv_heads,
          "heads, " + std::to_string(model.heads) + ", for " + model.architecture);
  require(!architecture.narrow || model.embedding == width, "embedding", model.embedding,
          "heads * head_dim, " + std::to_string(width) + ", for " + model.architecture);
  require(architecture.window_period == 0 || model.window_period > 1, "window_period",
          model.window_period, "at least 2");  // llama.cpp wants a layer with a window
  require(model.rotary_dim == model.head_dim || model.architecture == "phi3", "rotary_dim",
          model.rotary_dim, "head_dim, " + std::to_string(model.head_dim) + ", but for phi3");
  const std::string& scaling = model.rotary_scaling;
  require(scaling == "none" || scaling == "linear" || scaling == "yarn", "rotary_scaling", scaling,
          "none, linear or yarn");
  require(model.labels == 0 || model.architecture == "qwen3", "labels", model.labels,
          "0 but for qwen3");
  require(model.latent_cache || model.architecture == "deepseek2", "latent_cache", "false",
          "true but for deepseek2");
  require(model.reading_layers == 0 || model.architecture == "gemma4", "reading_layers",
          model.reading_layers, "0 but for gemma4");
  require(!model.rotary_factors || model.architecture == "llama", "rotary_factors", "true",
          "false but for llama");
  return model;
}

void write_tiny_model(const TinyModel& model, const std::string& path) {
  const TinyModel complete = completed(model);
  GgufWriter writer(complete.architecture, complete.seed);
  write_tiny_vocabulary(writer, complete.vocabulary);
  write_sizes(writer, complete);
  write_rotary(writer, complete);
  find(complete.architecture).write(writer, complete);
  if (complete.labels > 0) write_classifier(writer, complete);
  writer.save(path);
}

}  // namespace squat::testing
