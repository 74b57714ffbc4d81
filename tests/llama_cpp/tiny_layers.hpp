// What the files of tiny models share. Every function writes the tensors of one architecture, or of
// a few that are alike.
#pragma once

#include <string>

#include "gguf_writer.hpp"
#include "tiny_model.hpp"

namespace squat::testing {

/// Queries and keys that both have this deviation give scores with a deviation of about 2.
inline constexpr double score_gain = 1.4;

/// Of attention's outputs: a mean over several tokens is small.
inline constexpr double attention_gain = 2;

inline std::string block(int layer) { return "blk." + std::to_string(layer) + "."; }

/// gate, up and down, without biases.
inline void write_feed_forward(GgufWriter& writer, const TinyModel& model, const std::string& at) {
  writer.linear(at + "ffn_gate", model.embedding, model.feed_forward);
  writer.linear(at + "ffn_up", model.embedding, model.feed_forward);
  writer.linear(at + "ffn_down", model.feed_forward, model.embedding);
}

/// Logits with a deviation of about 3.
inline void write_output(GgufWriter& writer, const TinyModel& model) {
  writer.norm("output_norm", model.embedding);
  writer.linear("output", model.embedding, model.vocabulary, 3);
}

/// Pairs of channels that turn with each of the positions of M-RoPE: time, then height and width.
inline void write_rope_sections(GgufWriter& writer, const TinyModel& model) {
  const int quarter = model.rotary_dim / 8;
  writer.numbers("rope.dimension_sections",
                 {quarter, quarter + quarter / 2, 2 * quarter - quarter / 2, 0});
}

/// llama, qwen2, qwen2vl, qwen3, qwen3vl, phi3, gemma2, gemma3, gemma4, cohere2, llama4
void write_tiny_decoder(GgufWriter& writer, const TinyModel& model);

void write_tiny_gpt_oss(GgufWriter& writer, const TinyModel& model);
void write_tiny_deepseek2(GgufWriter& writer, const TinyModel& model);
void write_tiny_bloom(GgufWriter& writer, const TinyModel& model);
void write_tiny_jamba(GgufWriter& writer, const TinyModel& model);
void write_tiny_granite_hybrid(GgufWriter& writer, const TinyModel& model);
void write_tiny_qwen35(GgufWriter& writer, const TinyModel& model);
void write_tiny_lfm2(GgufWriter& writer, const TinyModel& model);
void write_tiny_mamba(GgufWriter& writer, const TinyModel& model);
void write_tiny_bert(GgufWriter& writer, const TinyModel& model);
void write_tiny_t5(GgufWriter& writer, const TinyModel& model);

}  // namespace squat::testing
