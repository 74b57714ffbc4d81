#include "model_config.hpp"

#include <ggml.h>

#include <array>

#include "require.hpp"

namespace squat_llama {
namespace {

struct Architecture {
  const char* name;
  int rotary_mode;
};

// Biases, norms of queries and keys, and tied embeddings need no entry: a tensor that is in the
// file is used. Mistral's files say "llama".
constexpr std::array<Architecture, 3> kArchitectures = {{
    {"llama", GGML_ROPE_TYPE_NORMAL},
    {"qwen2", GGML_ROPE_TYPE_NEOX},
    {"qwen3", GGML_ROPE_TYPE_NEOX},
}};

const Architecture& find_architecture(const std::string& name) {
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  fail("the model's architecture is '" + name + "'; known are " + known +
       " (Mistral's files are of architecture llama)");
}

Rotary read_rotary(const GgufFile& file, const std::string& prefix, const ModelConfig& config,
                   int mode) {
  const auto read = [&](const char* key, double otherwise) {
    return static_cast<float>(file.find_number(prefix + "rope." + key).value_or(otherwise));
  };
  Rotary rotary;
  rotary.mode = mode;
  rotary.dims = static_cast<int>(read("dimension_count", config.head_dim));
  rotary.base = read("freq_base", 10000);
  rotary.original_context =
      static_cast<int>(read("scaling.original_context_length", config.context_length));

  const std::string scaling = file.find_text(prefix + "rope.scaling.type").value_or("linear");
  const float factor = read("scaling.factor", read("scale_linear", 1));
  if (scaling == "none" || factor == 0) return rotary;
  require(scaling == "linear" || scaling == "yarn", file.path(), ": ", prefix,
          "rope.scaling.type is '", scaling, "'; known are none, linear, yarn");
  rotary.scale = 1 / factor;
  rotary.attention_factor = read("scaling.attn_factor", 1);
  if (scaling == "yarn") {
    rotary.extrapolation = read("scaling.yarn_ext_factor", 1);
    rotary.attention_factor *= read("scaling.yarn_attn_factor", 1);
    rotary.beta_fast = read("scaling.yarn_beta_fast", 32);
    rotary.beta_slow = read("scaling.yarn_beta_slow", 1);
  }
  return rotary;
}

}  // namespace

ModelConfig read_model_config(const GgufFile& file) {
  ModelConfig config;
  config.architecture = file.text("general.architecture");
  const Architecture& architecture = find_architecture(config.architecture);
  const std::string prefix = config.architecture + ".";
  const auto count = [&](const char* key) { return static_cast<int>(file.number(prefix + key)); };

  config.layers = count("block_count");
  config.embedding = count("embedding_length");
  config.query_heads = count("attention.head_count");
  config.kv_heads = static_cast<int>(
      file.find_number(prefix + "attention.head_count_kv").value_or(config.query_heads));
  require(config.query_heads >= 1 && config.kv_heads >= 1, file.path(), ": ", config.query_heads,
          " query heads and ", config.kv_heads, " kv heads");
  config.head_dim = static_cast<int>(file.find_number(prefix + "attention.key_length")
                                         .value_or(config.embedding / config.query_heads));
  config.context_length = count("context_length");
  config.norm_epsilon =
      static_cast<float>(file.number(prefix + "attention.layer_norm_rms_epsilon"));
  config.rotary = read_rotary(file, prefix, config, architecture.rotary_mode);

  const double value_length =
      file.find_number(prefix + "attention.value_length").value_or(config.head_dim);
  require(value_length == config.head_dim, file.path(), ": heads of values have ", value_length,
          " channels and heads of keys ", config.head_dim, "; the engine needs them equal");
  require(file.find_number(prefix + "expert_count").value_or(0) == 0, file.path(),
          " is a mixture of experts, which the engine does not have");
  return config;
}

}  // namespace squat_llama
