// The model's attention as squat sees it.
#pragma once

#include <squat/config.hpp>

#include "model_config.hpp"

namespace squat_llama {

/// Of queries and keys after RoPE.
squat::ModelShape attention_shape(const ModelConfig& model);

/// Of queries and keys before RoPE: shape.rope does what ggml_rope_ext() does with the model's
/// parameters, and shape.softmax_scale what is left where YaRN makes queries and keys longer. Fails
/// if it makes only a part of their channels longer.
squat::ModelShape attention_shape_before_rope(const ModelConfig& model);

}  // namespace squat_llama
