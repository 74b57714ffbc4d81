#include "attention_shape.hpp"

#include <ggml.h>

#include <algorithm>
#include <cmath>

#include "require.hpp"

namespace squat_llama {

squat::ModelShape attention_shape(const ModelConfig& model) {
  squat::ModelShape shape;
  shape.layers = model.layers;
  shape.query_heads = model.query_heads;
  shape.kv_heads = model.kv_heads;
  shape.head_dim = model.head_dim;
  return shape;
}

squat::ModelShape attention_shape_before_rope(const ModelConfig& model) {
  squat::ModelShape shape = attention_shape(model);
  const Rotary& rotary = model.rotary;
  shape.rope.pairing = rotary.mode == GGML_ROPE_TYPE_NEOX ? squat::RopePairing::halves
                                                          : squat::RopePairing::interleaved;
  shape.rope.dims = rotary.dims;
  shape.rope.base = static_cast<double>(rotary.base);
  // YaRN (Peng et al. 2023) blends scaled and plain angles along a ramp over the pairs.
  float ramp[2];
  ggml_rope_yarn_corr_dims(rotary.dims, rotary.original_context, rotary.base, rotary.beta_fast,
                           rotary.beta_slow, ramp);
  const double scale = static_cast<double>(rotary.scale);
  for (int pair = 0; pair < rotary.dims / 2; ++pair) {
    const float along = (static_cast<float>(pair) - ramp[0]) / std::max(0.001f, ramp[1] - ramp[0]);
    const double plain =
        static_cast<double>(rotary.extrapolation * (1 - std::clamp(along, 0.0f, 1.0f)));
    const double factor = rotary.factors.empty()
                              ? 1
                              : static_cast<double>(rotary.factors[static_cast<std::size_t>(pair)]);
    shape.rope.factors.push_back(factor / (scale * (1 - plain) + plain));
  }
  double length = static_cast<double>(rotary.attention_factor);
  if (rotary.extrapolation != 0) length *= 1 - 0.1 * std::log(scale);
  if (length == 1) return shape;
  require(rotary.dims == model.head_dim, "rotary embedding makes ", rotary.dims, " of ",
          model.head_dim, " channels longer; pre_rope needs all of them or none");
  shape.softmax_scale = length * length / std::sqrt(static_cast<double>(model.head_dim));
  return shape;
}

}  // namespace squat_llama
