// Decoders whose layers, or some of them, have a state instead of attention.
#include "tiny_layers.hpp"

namespace squat::testing {
namespace {

constexpr int short_convolution = 3;  // tokens, of LFM2

/// Of Mamba.
struct StateSizes {
  explicit StateSizes(const TinyModel& model) : inner(2 * model.embedding) {}

  int inner, state = 16, step_rank = 16, convolution = 4;
  int heads() const { return step_rank; }  // of Mamba-2
};

void write_state_sizes(GgufWriter& writer, const StateSizes& sizes) {
  writer.number("ssm.conv_kernel", sizes.convolution);
  writer.number("ssm.inner_size", sizes.inner);
  writer.number("ssm.state_size", sizes.state);
  writer.number("ssm.time_step_rank", sizes.step_rank);
}

/// With `norms`, as Jamba has it.
void write_mamba(GgufWriter& writer, const TinyModel& model, const std::string& at, bool norms) {
  const StateSizes sizes(model);
  writer.linear(at + "ssm_in", model.embedding, 2 * sizes.inner);
  writer.linear(at + "ssm_conv1d", sizes.convolution, sizes.inner);
  writer.bias(at + "ssm_conv1d", sizes.inner);
  writer.linear(at + "ssm_x", sizes.inner, sizes.step_rank + 2 * sizes.state);
  if (norms) {
    writer.norm(at + "ssm_dt_norm", sizes.step_rank);
    writer.norm(at + "ssm_b_norm", sizes.state);
    writer.norm(at + "ssm_c_norm", sizes.state);
  }
  writer.linear(at + "ssm_dt", sizes.step_rank, sizes.inner);
  // Steps of about 0.03 (after softplus) and decays of 1 to 16, as Mamba begins its training with.
  writer.random(at + "ssm_dt.bias", {sizes.inner}, -3.5, 0.7);
  std::vector<float> decays(static_cast<std::size_t>(sizes.inner * sizes.state));
  for (std::size_t i = 0; i < decays.size(); ++i)
    decays[i] = -1 - static_cast<float>(i % static_cast<std::size_t>(sizes.state));
  writer.tensor(at + "ssm_a", {sizes.state, sizes.inner}, decays);
  writer.random(at + "ssm_d", {sizes.inner}, 1, 0.2);
  writer.linear(at + "ssm_out", sizes.inner, model.embedding);
}

/// Mamba-2: a head has one decay.
void write_mamba2(GgufWriter& writer, const TinyModel& model, const std::string& at) {
  const StateSizes sizes(model);
  const int convolved = sizes.inner + 2 * sizes.state;  // with what is written and read
  writer.linear(at + "ssm_in", model.embedding, sizes.inner + convolved + sizes.heads());
  writer.linear(at + "ssm_conv1d", sizes.convolution, convolved);
  writer.bias(at + "ssm_conv1d", convolved);
  writer.random(at + "ssm_dt.bias", {sizes.heads()}, -3.5, 0.7);
  std::vector<float> decays;
  for (int head = 0; head < sizes.heads(); ++head) decays.push_back(-1 - static_cast<float>(head));
  writer.tensor(at + "ssm_a", {1, sizes.heads()}, decays);
  writer.random(at + "ssm_d", {1, sizes.heads()}, 1, 0.2);
  writer.random(at + "ssm_norm.weight", {sizes.inner, 1}, 1, 0.2);
  writer.linear(at + "ssm_out", sizes.inner, model.embedding);
}

/// One with norms of queries and keys where `normed`, each of every head.
void write_attention(GgufWriter& writer, const TinyModel& model, const std::string& at,
                     bool normed) {
  const std::int64_t keys = model.kv_heads * model.head_dim;
  writer.linear(at + "attn_q", model.embedding, model.embedding, score_gain);
  writer.linear(at + "attn_k", model.embedding, keys, score_gain);
  writer.linear(at + "attn_v", model.embedding, keys);
  writer.linear(at + "attn_output", model.embedding, model.embedding, attention_gain);
  if (!normed) return;
  writer.norm(at + "attn_q_norm", model.head_dim, score_gain);
  writer.norm(at + "attn_k_norm", model.head_dim, score_gain);
}

/// A convolution over three tokens, between gates.
void write_short_convolution(GgufWriter& writer, const TinyModel& model, const std::string& at) {
  writer.linear(at + "shortconv.conv", short_convolution, model.embedding);
  writer.linear(at + "shortconv.in_proj", model.embedding, 3 * model.embedding);
  writer.linear(at + "shortconv.out_proj", model.embedding, model.embedding);
}

/// Whose every other layer has attention, and the others what `write_state` writes.
template <class WriteState>
void write_alternating(GgufWriter& writer, const TinyModel& model, bool normed,
                       const WriteState& write_state) {
  writer.random("token_embd.weight", {model.embedding, model.vocabulary}, 0, 1);
  std::vector<std::int32_t> kv_heads;  // of each layer; 0 for those with a state
  for (int layer = 0; layer < model.layers; ++layer) {
    const std::string at = block(layer);
    const bool attention = layer % 2 == 1;
    kv_heads.push_back(attention ? model.kv_heads : 0);
    writer.norm(at + "attn_norm", model.embedding);
    if (attention)
      write_attention(writer, model, at, normed);
    else
      write_state(at);
    writer.norm(at + "ffn_norm", model.embedding);
    write_feed_forward(writer, model, at);
  }
  writer.numbers("attention.head_count_kv", kv_heads);
}

}  // namespace

void write_tiny_jamba(GgufWriter& writer, const TinyModel& model) {
  write_state_sizes(writer, StateSizes(model));
  write_alternating(writer, model, /*normed=*/false,
                    [&](const std::string& at) { write_mamba(writer, model, at, /*norms=*/true); });
  write_output(writer, model);
}

void write_tiny_granite_hybrid(GgufWriter& writer, const TinyModel& model) {
  write_state_sizes(writer, StateSizes(model));
  writer.number("ssm.group_count", 1);
  write_alternating(writer, model, /*normed=*/false,
                    [&](const std::string& at) { write_mamba2(writer, model, at); });
  write_output(writer, model);
}

void write_tiny_lfm2(GgufWriter& writer, const TinyModel& model) {
  writer.number("shortconv.l_cache", short_convolution);
  write_alternating(writer, model, /*normed=*/true,
                    [&](const std::string& at) { write_short_convolution(writer, model, at); });
  writer.norm("token_embd_norm", model.embedding);  // behind the layers, in spite of its name
  writer.linear("output", model.embedding, model.vocabulary, 3);
}

void write_tiny_mamba(GgufWriter& writer, const TinyModel& model) {
  write_state_sizes(writer, StateSizes(model));
  writer.random("token_embd.weight", {model.embedding, model.vocabulary}, 0, 1);
  for (int layer = 0; layer < model.layers; ++layer) {
    writer.norm(block(layer) + "attn_norm", model.embedding);
    write_mamba(writer, model, block(layer), /*norms=*/false);
  }
  write_output(writer, model);
}

}  // namespace squat::testing
