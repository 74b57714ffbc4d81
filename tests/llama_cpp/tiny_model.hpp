// Tiny models with random weights that llama.cpp loads, of many architectures.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace squat::testing {

/// One of tiny_decoders() or tiny_encoders(). 0 stands for the architecture's own.
struct TinyModel {
  std::string architecture = "llama";  ///< as in the file's general.architecture
  std::uint32_t seed = 1;
  int layers = 0;
  int heads = 4;
  int kv_heads = 0;  ///< 0: half of the heads, or all where the architecture shares none
  int head_dim = 64;
  int embedding = 0;
  int feed_forward = 256;
  int vocabulary = 320;
  int context_length = 8192;
  int window = 32;                      ///< of the architectures that have windows
  int window_period = 0;                ///< every so many layers, one has no window
  int rotary_dim = 0;                   ///< 0: head_dim; phi3 takes fewer
  std::string rotary_scaling = "none";  ///< or "linear" or "yarn", by 4
  bool rotary_factors = false;          ///< llama's; phi3 always has long and short ones
  int reading_layers = 0;    ///< gemma4: the last so many read keys and values of earlier ones
  int labels = 0;            ///< qwen3: what a classifier tells apart
  bool latent_cache = true;  ///< deepseek2: what keys and values are made from, or these themselves
};

/// For the names of tests.
std::ostream& operator<<(std::ostream& out, const TinyModel& model);

/// What needs no encoder. Attention of the first five has queries, keys and values of one width,
/// rotary embedding by one position, and no more than a scale and a window. Then come qwen2vl and
/// qwen3vl (positions of several dimensions), gemma2 (capped scores), gemma4 (widths by layer, and
/// layers that read what others have written), cohere2 (windows, no position elsewhere), llama4
/// (chunks of 8192 tokens, no position elsewhere), gpt-oss (sinks and experts), deepseek2 (latent
/// attention), bloom (ALiBi), jamba and granitehybrid (every other layer is of Mamba or Mamba-2)
/// and lfm2 (every other layer is a short convolution) and qwen35 (every other layer has a delta
/// rule, M-RoPE). mamba, which has no attention, is none of these.
const std::vector<std::string>& tiny_decoders();
/// A model of each of these, as it is.
std::vector<TinyModel> tiny_models(const std::vector<std::string>& architectures);
/// Other ways in which keys turn with their position: linear and YaRN scaling, frequency factors, a
/// part of a head (phi3), keys that are not latent (deepseek2).
std::vector<TinyModel> tiny_rotary_variants();
/// bert (embeddings alone, no cache) and t5 (an encoder and a decoder).
const std::vector<std::string>& tiny_encoders();

/// What is written for the 0s of `model`. Throws std::invalid_argument for what the architecture
/// does not allow.
TinyModel completed(TinyModel model);

/// Writes a GGUF file in single precision; the same model gives the same file. Scores of attention
/// have a deviation of about 2, so that it is neither uniform nor on one token.
void write_tiny_model(const TinyModel& model, const std::string& path);

}  // namespace squat::testing
