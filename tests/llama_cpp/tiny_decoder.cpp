// Decoders whose layers differ in details alone.
#include <cmath>

#include "tiny_layers.hpp"

namespace squat::testing {
namespace {

struct Details {
  explicit Details(const std::string& architecture)
      : gemma(architecture == "gemma2" || architecture == "gemma3" || architecture == "gemma4"),
        biases(architecture == "qwen2" || architecture == "qwen2vl"),
        head_norms(architecture == "qwen3" || architecture == "qwen3vl" ||
                   architecture == "gemma3" || architecture == "gemma4"),
        fused(architecture == "phi3"),
        tied(architecture == "gemma2" || architecture == "cohere2"),
        parallel(architecture == "cohere2") {}

  bool gemma;       ///< embeddings are scaled, and what layers add is normalized
  bool biases;      ///< of queries, keys and values
  bool head_norms;  ///< of queries and keys
  bool fused;       ///< queries, keys and values are one tensor; gate and up, too
  bool tied;        ///< logits come from the token embedding
  bool parallel;    ///< attention and feed-forward have one norm
};

/// Of one layer; `writes` says whether it has keys and values of its own.
void write_attention(GgufWriter& writer, const TinyModel& model, const Details& details,
                     const std::string& at, bool writes) {
  const std::int64_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
  const double gain = details.head_norms ? 1 : score_gain;
  if (details.fused) {
    writer.linear(at + "attn_qkv", model.embedding, queries + 2 * keys, gain);
  } else {
    writer.linear(at + "attn_q", model.embedding, queries, gain);
    if (writes) {
      writer.linear(at + "attn_k", model.embedding, keys, gain);
      writer.linear(at + "attn_v", model.embedding, keys);
    }
  }
  if (details.biases) {
    writer.bias(at + "attn_q", queries, 0.5);
    writer.bias(at + "attn_k", keys, 1);  // such models have keys with great means
    writer.bias(at + "attn_v", keys);
  }
  if (details.head_norms) {
    // Gemma 4 does not divide scores by the root of head_dim.
    const double norm = model.architecture == "gemma4"
                            ? score_gain / std::sqrt(std::sqrt(model.head_dim))
                            : score_gain;
    writer.norm(at + "attn_q_norm", model.head_dim, norm);
    if (writes) writer.norm(at + "attn_k_norm", model.head_dim, norm);
  }
  writer.linear(at + "attn_output", queries, model.embedding, attention_gain);
}

void write_layer(GgufWriter& writer, const TinyModel& model, const Details& details,
                 const std::string& at, bool writes) {
  writer.norm(at + "attn_norm", model.embedding);
  write_attention(writer, model, details, at, writes);
  if (!details.parallel) writer.norm(at + "ffn_norm", model.embedding);
  if (details.fused) {
    writer.linear(at + "ffn_up", model.embedding, 2 * model.feed_forward);
    writer.linear(at + "ffn_down", model.feed_forward, model.embedding);
  } else {
    write_feed_forward(writer, model, at);
  }
  if (details.gemma) {
    writer.norm(at + "post_attention_norm", model.embedding, 0.7);
    writer.norm(at + "post_ffw_norm", model.embedding, 0.7);
  }
}

/// Every window_period layers, one has none.
bool has_window(const TinyModel& model, int layer) {
  return layer % model.window_period < model.window_period - 1;
}

/// Frequencies are divided by these: the low ones by more.
std::vector<float> rotary_factors(int pairs, double greatest) {
  std::vector<float> factors;
  factors.reserve(static_cast<std::size_t>(pairs));
  for (int i = 0; i < pairs; ++i)
    factors.push_back(static_cast<float>(1 + (greatest - 1) * i / pairs));
  return factors;
}

}  // namespace

void write_tiny_decoder(GgufWriter& writer, const TinyModel& model) {
  const Details details(model.architecture);
  // Gemma multiplies embeddings by the root of their width.
  const double deviation = details.gemma ? 1 / std::sqrt(model.embedding) : 1;
  writer.random("token_embd.weight", {model.embedding, model.vocabulary}, 0, deviation);
  for (int layer = 0; layer < model.layers; ++layer) {
    TinyModel own = model;
    if (model.architecture == "gemma4" && has_window(model, layer)) own.head_dim /= 2;
    write_layer(writer, own, details, block(layer), layer < model.layers - model.reading_layers);
  }
  if (details.tied)
    writer.norm("output_norm", model.embedding, 3);  // such logits have a deviation of 3, too
  else
    write_output(writer, model);

  if (model.rotary_factors)
    writer.tensor("rope_freqs.weight", {model.rotary_dim / 2},
                  rotary_factors(model.rotary_dim / 2, 4));
  if (model.architecture == "phi3") {
    writer.tensor("rope_factors_short.weight", {model.rotary_dim / 2},
                  rotary_factors(model.rotary_dim / 2, 1.5));
    writer.tensor("rope_factors_long.weight", {model.rotary_dim / 2},
                  rotary_factors(model.rotary_dim / 2, 4));
    writer.number("rope.scaling.original_context_length", model.context_length / 2);
    writer.real("rope.scaling.attn_factor", 1.1f);
  }
  if (model.architecture == "qwen2vl" || model.architecture == "qwen3vl")
    write_rope_sections(writer, model);
  if (model.architecture == "llama4") {  // no layer has experts, but these are asked for
    writer.number("interleave_moe_layer_step", 0);
    writer.number("expert_count", 2);
    writer.number("expert_used_count", 1);
    writer.number("expert_feed_forward_length", model.feed_forward);
  }
  if (model.architecture == "cohere2") writer.real("logit_scale", 0.0625f);
  if (model.architecture == "gemma4") {
    std::vector<std::int32_t> windows;
    for (int layer = 0; layer < model.layers; ++layer) windows.push_back(has_window(model, layer));
    writer.numbers("attention.sliding_window_pattern", windows);
    writer.number("attention.shared_kv_layers", model.reading_layers);
    writer.number("attention.key_length_swa", model.head_dim / 2);
    writer.number("attention.value_length_swa", model.head_dim / 2);
    writer.number("rope.dimension_count_swa", model.head_dim / 2);
    writer.number("embedding_length_per_layer_input", 0);
    writer.tensor("rope_freqs.weight", {model.head_dim / 2}, rotary_factors(model.head_dim / 2, 4));
  }
  if (model.architecture == "gemma2") {
    writer.real("attn_logit_softcapping", 50);
    writer.real("final_logit_softcapping", 30);
  }
}

}  // namespace squat::testing
