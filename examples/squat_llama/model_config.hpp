// What a Llama-like model looks like, as its file's metadata says.
#pragma once

#include <string>
#include <vector>

#include "gguf_file.hpp"

namespace squat_llama {

/// Rotary position embedding, in the terms of ggml_rope_ext.
struct Rotary {
  int dims = 0;  ///< channels of a head that rotate
  int mode = 0;  ///< GGML_ROPE_TYPE_NORMAL: neighbours are a pair; NEOX: halves are
  int original_context =
      0;  ///< tokens that the model was trained on before its context was stretched
  float base = 10000;
  float scale = 1;
  float extrapolation = 0;  ///< 1 for YaRN
  float attention_factor = 1;
  float beta_fast = 32;
  float beta_slow = 1;
  std::vector<float> factors = {};  ///< one a pair, or empty
};

struct ModelConfig {
  std::string architecture;
  int layers = 0;
  int embedding = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int context_length = 0;
  float norm_epsilon = 0;
  Rotary rotary;

  int query_dim() const { return query_heads * head_dim; }
  int kv_dim() const { return kv_heads * head_dim; }
};

/// An architecture that is not known, or a feature that the engine does not have, is an error.
ModelConfig read_model_config(const GgufFile& file);

}  // namespace squat_llama
