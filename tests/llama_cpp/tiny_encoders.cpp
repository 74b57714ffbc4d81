// Models with an encoder.
#include <cmath>

#include "tiny_layers.hpp"

namespace squat::testing {
namespace {

constexpr int distances = 32;  // that T5 tells apart

/// T5's: scores are not divided by the root of head_dim.
void write_t5_attention(GgufWriter& writer, const TinyModel& model, const std::string& at) {
  const std::int64_t width = model.heads * model.head_dim;
  writer.norm(at + "_norm", model.embedding);
  writer.linear(at + "_q", model.embedding, width, score_gain / std::sqrt(model.head_dim));
  writer.linear(at + "_k", model.embedding, width, score_gain);
  writer.linear(at + "_v", model.embedding, width);
  writer.linear(at + "_o", width, model.embedding, attention_gain);
}

void write_t5_layer(GgufWriter& writer, const TinyModel& model, const std::string& at,
                    bool decoder) {
  write_t5_attention(writer, model, at + "attn");
  writer.random(at + "attn_rel_b.weight", {model.heads, distances}, 0, 1);
  if (decoder) write_t5_attention(writer, model, at + "cross_attn");
  writer.norm(at + "ffn_norm", model.embedding);
  write_feed_forward(writer, model, at);
}

}  // namespace

void write_tiny_bert(GgufWriter& writer, const TinyModel& model) {
  constexpr int pooled_as_mean = 1, kinds_of_tokens = 2;
  writer.flag("attention.causal", false);
  writer.number("pooling_type", pooled_as_mean);
  writer.number("tokenizer.ggml.token_type_count", kinds_of_tokens);

  const auto linear = [&](const std::string& name, std::int64_t inputs, std::int64_t outputs,
                          double gain) {
    writer.linear(name, inputs, outputs, gain);
    writer.bias(name, outputs);
  };
  const auto norm = [&](const std::string& name) {
    writer.norm(name, model.embedding);
    writer.bias(name, model.embedding);
  };
  writer.random("token_embd.weight", {model.embedding, model.vocabulary}, 0, 1);
  writer.random("token_types.weight", {model.embedding, kinds_of_tokens}, 0, 0.2);
  writer.random("position_embd.weight", {model.embedding, model.context_length}, 0, 0.5);
  norm("token_embd_norm");
  for (int layer = 0; layer < model.layers; ++layer) {
    const std::string at = block(layer);
    linear(at + "attn_q", model.embedding, model.embedding, score_gain);
    linear(at + "attn_k", model.embedding, model.kv_heads * model.head_dim, score_gain);
    linear(at + "attn_v", model.embedding, model.kv_heads * model.head_dim, 1);
    linear(at + "attn_output", model.embedding, model.embedding, attention_gain);
    norm(at + "attn_output_norm");
    linear(at + "ffn_up", model.embedding, model.feed_forward, 1);
    linear(at + "ffn_down", model.feed_forward, model.embedding, 1);
    norm(at + "layer_output_norm");
  }
}

void write_tiny_t5(GgufWriter& writer, const TinyModel& model) {
  writer.number("attention.relative_buckets_count", distances);
  writer.number("decoder_start_token_id", 0);
  writer.random("token_embd.weight", {model.embedding, model.vocabulary}, 0, 1);
  for (int layer = 0; layer < model.layers; ++layer) {
    write_t5_layer(writer, model, "enc." + block(layer), /*decoder=*/false);
    write_t5_layer(writer, model, "dec." + block(layer), /*decoder=*/true);
  }
  writer.norm("enc.output_norm", model.embedding);
  writer.norm("dec.output_norm", model.embedding);
  writer.linear("output", model.embedding, model.vocabulary, 3);
}

}  // namespace squat::testing
