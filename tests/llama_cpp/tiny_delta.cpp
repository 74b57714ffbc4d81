// A decoder of layers with a gated delta rule beside some with gated attention: Qwen3.5.
#include "tiny_layers.hpp"

namespace squat::testing {
namespace {

/// Keys and values of the delta rule are of one width.
constexpr int delta_width = 32, delta_keys = 2, delta_values = 4, delta_convolution = 4;

void write_delta(GgufWriter& writer, const TinyModel& model, const std::string& at) {
  const int values = delta_values * delta_width;
  const int convolved = 2 * delta_keys * delta_width + values;
  writer.linear(at + "attn_qkv", model.embedding, convolved);
  writer.linear(at + "attn_gate", model.embedding, values);
  writer.linear(at + "ssm_conv1d", delta_convolution, convolved);
  writer.random(at + "ssm_dt.bias", {delta_values}, -3.5, 0.7);
  std::vector<float> decays;
  for (int head = 0; head < delta_values; ++head) decays.push_back(-1 - static_cast<float>(head));
  writer.tensor(at + "ssm_a", {delta_values}, decays);
  writer.linear(at + "ssm_beta", model.embedding, delta_values);
  writer.linear(at + "ssm_alpha", model.embedding, delta_values);
  writer.norm(at + "ssm_norm", delta_width);
  writer.linear(at + "ssm_out", values, model.embedding, attention_gain);
}

void write_gated_attention(GgufWriter& writer, const TinyModel& model, const std::string& at) {
  const std::int64_t queries = model.heads * model.head_dim, keys = model.kv_heads * model.head_dim;
  writer.linear(at + "attn_q", model.embedding, 2 * queries);  // of each head, then its gate
  writer.linear(at + "attn_k", model.embedding, keys);
  writer.linear(at + "attn_v", model.embedding, keys);
  writer.norm(at + "attn_q_norm", model.head_dim, score_gain);
  writer.norm(at + "attn_k_norm", model.head_dim, score_gain);
  writer.linear(at + "attn_output", queries, model.embedding, 2 * attention_gain);
}

}  // namespace

void write_tiny_qwen35(GgufWriter& writer, const TinyModel& model) {
  writer.number("ssm.conv_kernel", delta_convolution);
  writer.number("ssm.inner_size", delta_values * delta_width);
  writer.number("ssm.state_size", delta_width);
  writer.number("ssm.time_step_rank", delta_values);
  writer.number("ssm.group_count", delta_keys);
  writer.number("full_attention_interval", 2);
  write_rope_sections(writer, model);
  writer.random("token_embd.weight", {model.embedding, model.vocabulary}, 0, 1);
  for (int layer = 0; layer < model.layers; ++layer) {
    const std::string at = block(layer);
    writer.norm(at + "attn_norm", model.embedding);
    if (layer % 2 == 1)
      write_gated_attention(writer, model, at);
    else
      write_delta(writer, model, at);
    writer.norm(at + "post_attention_norm", model.embedding);
    write_feed_forward(writer, model, at);
  }
  write_output(writer, model);
}

}  // namespace squat::testing
