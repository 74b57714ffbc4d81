// Decoders whose attention is of another kind.
#include <cmath>

#include "tiny_layers.hpp"

namespace squat::testing {
namespace {

void write_embedding(GgufWriter& writer, const TinyModel& model) {
  writer.random("token_embd.weight", {model.embedding, model.vocabulary}, 0, 1);
}

void write_gpt_oss_layer(GgufWriter& writer, const TinyModel& model, int experts,
                         const std::string& at) {
  const std::int64_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
  writer.norm(at + "attn_norm", model.embedding);
  const auto linear = [&](const std::string& name, std::int64_t inputs, std::int64_t outputs,
                          double gain) {
    writer.linear(at + name, inputs, outputs, gain);
    writer.bias(at + name, outputs);
  };
  linear("attn_q", model.embedding, queries, score_gain);
  linear("attn_k", model.embedding, keys, score_gain);
  linear("attn_v", model.embedding, keys, 1);
  linear("attn_output", queries, model.embedding, attention_gain);
  writer.random(at + "attn_sinks.weight", {model.heads}, 1, 1);

  writer.norm(at + "post_attention_norm", model.embedding);
  linear("ffn_gate_inp", model.embedding, experts, 1);
  const auto linears = [&](const std::string& name, std::int64_t inputs, std::int64_t outputs) {
    writer.linears(at + name, inputs, outputs, experts);
    writer.random(at + name + ".bias", {outputs, experts}, 0, 0.2);
  };
  linears("ffn_gate_exps", model.embedding, model.feed_forward);
  linears("ffn_up_exps", model.embedding, model.feed_forward);
  linears("ffn_down_exps", model.feed_forward, model.embedding);
}

/// Widths of multi-head latent attention: a part without rotary embedding, one with it.
struct LatentWidths {
  explicit LatentWidths(const TinyModel& model)
      : plain(model.head_dim),
        rotary(model.head_dim / 2),
        value(model.head_dim),
        latent(model.head_dim + model.head_dim / 2),
        query_latent(model.head_dim) {}

  int key() const { return plain + rotary; }

  int plain, rotary, value, latent, query_latent;
};

void write_latent_sizes(GgufWriter& writer, const TinyModel& model, const LatentWidths& widths) {
  writer.number("rope.dimension_count", widths.rotary);
  writer.number("attention.q_lora_rank", widths.query_latent);
  writer.number("attention.kv_lora_rank", widths.latent);
  if (model.latent_cache) {
    writer.number("attention.head_count_kv", 1);
    writer.number("attention.key_length", widths.latent + widths.rotary);
    writer.number("attention.value_length", widths.latent);
    writer.number("attention.key_length_mla", widths.key());
    writer.number("attention.value_length_mla", widths.value);
  } else {
    writer.number("attention.key_length", widths.key());
    writer.number("attention.value_length", widths.value);
  }
  // No layer has experts, but these are asked for.
  writer.number("leading_dense_block_count", model.layers);
  writer.number("expert_feed_forward_length", model.feed_forward);
  writer.number("expert_shared_count", 0);
}

void write_latent_attention(GgufWriter& writer, const TinyModel& model, const LatentWidths& widths,
                            const std::string& at) {
  writer.linear(at + "attn_q_a", model.embedding, widths.query_latent);
  writer.norm(at + "attn_q_a_norm", widths.query_latent);
  writer.linear(at + "attn_q_b", widths.query_latent, model.heads * widths.key(), score_gain);
  writer.linear(at + "attn_kv_a_mqa", model.embedding, widths.latent + widths.rotary, score_gain);
  writer.norm(at + "attn_kv_a_norm", widths.latent);
  if (model.latent_cache) {
    // Transposed: queries are multiplied with it instead of the latent vectors.
    writer.random(at + "attn_k_b.weight", {widths.plain, widths.latent, model.heads}, 0,
                  score_gain / std::sqrt(widths.latent));
    writer.linears(at + "attn_v_b", widths.latent, widths.value, model.heads);
  } else {
    writer.linear(at + "attn_kv_b", widths.latent, model.heads * (widths.plain + widths.value),
                  score_gain);
  }
  writer.linear(at + "attn_output", model.heads * widths.value, model.embedding, attention_gain);
}

}  // namespace

void write_tiny_gpt_oss(GgufWriter& writer, const TinyModel& model) {
  constexpr int expert_count = 4;
  writer.number("expert_count", expert_count);
  writer.number("expert_used_count", 2);
  writer.number("expert_feed_forward_length", model.feed_forward);
  write_embedding(writer, model);
  for (int layer = 0; layer < model.layers; ++layer)
    write_gpt_oss_layer(writer, model, expert_count, block(layer));
  write_output(writer, model);
}

void write_tiny_deepseek2(GgufWriter& writer, const TinyModel& model) {
  const LatentWidths widths(model);
  write_latent_sizes(writer, model, widths);
  write_embedding(writer, model);
  for (int layer = 0; layer < model.layers; ++layer) {
    const std::string at = block(layer);
    writer.norm(at + "attn_norm", model.embedding);
    write_latent_attention(writer, model, widths, at);
    writer.norm(at + "ffn_norm", model.embedding);
    write_feed_forward(writer, model, at);
  }
  write_output(writer, model);
}

void write_tiny_bloom(GgufWriter& writer, const TinyModel& model) {
  const auto linear = [&](const std::string& name, std::int64_t inputs, std::int64_t outputs,
                          double gain) {
    writer.linear(name, inputs, outputs, gain);
    writer.bias(name, outputs);
  };
  const auto norm = [&](const std::string& name) {
    writer.norm(name, model.embedding);
    writer.bias(name, model.embedding);
  };
  write_embedding(writer, model);
  norm("token_embd_norm");
  for (int layer = 0; layer < model.layers; ++layer) {
    const std::string at = block(layer);
    norm(at + "attn_norm");
    linear(at + "attn_qkv", model.embedding, 3 * model.embedding, score_gain);
    linear(at + "attn_output", model.embedding, model.embedding, attention_gain);
    norm(at + "ffn_norm");
    linear(at + "ffn_up", model.embedding, model.feed_forward, 1);
    linear(at + "ffn_down", model.feed_forward, model.embedding, 1);
  }
  write_output(writer, model);
  writer.bias("output_norm", model.embedding);
}

}  // namespace squat::testing
