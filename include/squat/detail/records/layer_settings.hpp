// What a configuration says of one layer.
#pragma once

#include <squat/config.hpp>

namespace squat::detail {

/// How scale, zero point and codes of a group are found.
enum class ScaleFit {
  min_max,         ///< Backend::quanto
  half_quadratic,  ///< Backend::hqq
  unbiased,        ///< Backend::unbiased
  symmetric,       ///< ValueGrid::symmetric
};

/// The codes of a group: how many bits they and their scale have, how the scale is found, and what
/// its numbers count in, which matters to ScaleFit::half_quadratic alone.
struct GroupFormat {
  int bits;
  int scale_bits;
  ScaleFit fit;
  double unit = 1;
};

/// A configuration resolved for one layer: no field stands for another one, and none has a size of
/// its own to copy.
struct LayerSettings {
  double key_bits;
  int value_bits;
  int scale_bits;
  bool has_adaptive_bits;
  bool has_token_scales;  ///< KeyScales::per_token
  bool rotates_keys;
  bool rotates_values;
  ScaleFit key_fit;
  ScaleFit value_fit;
  Index block_tokens;  ///< of a record
  Index key_group_size;
  Index value_group_size;
  Index residual_length;
  Index leaving_keys;  ///< with scales per channel: that leave a full residual at once
  int residual_bits;
  Index full_precision_tokens;
  // Of the metric.
  Index feedback_step;
  Index subspace_dim;
  double lambda;
  bool has_normalised_lambda;
  SubspaceMethod subspace_method;

  /// Of all layers. Implicit, so that what takes settings takes a Config too.
  LayerSettings(const Config& config)
      : key_bits(config.key_bits),
        value_bits(config.value_bits),
        scale_bits(config.scale_bits),
        has_adaptive_bits(config.adaptive_bits),
        has_token_scales(config.key_scales == KeyScales::per_token),
        rotates_keys(config.rotate_keys),
        rotates_values(config.rotate_values),
        key_fit(config.backend == Backend::hqq        ? ScaleFit::half_quadratic
                : config.backend == Backend::unbiased ? ScaleFit::unbiased
                                                      : ScaleFit::min_max),
        value_fit(config.value_grid == ValueGrid::symmetric ? ScaleFit::symmetric : key_fit),
        block_tokens(config.token_group_size),
        key_group_size(or_default(config.key_group_size, block_tokens)),
        value_group_size(or_default(config.value_group_size, block_tokens)),
        residual_length(config.residual_length),
        leaving_keys(config.rolling_residual ? block_tokens : residual_length),
        residual_bits(config.residual_bits),
        full_precision_tokens(config.full_precision_tokens),
        feedback_step(config.quant_group_size),
        subspace_dim(config.subspace_dim),
        lambda(config.squat_lambda),
        has_normalised_lambda(config.normalised_lambda),
        subspace_method(config.subspace_method) {}

  /// Of `layer`: Config::layer_bits enter.
  LayerSettings(const Config& config, Index layer) : LayerSettings(config.of_layer(layer)) {}

 private:
  static Index or_default(Index size, Index otherwise) { return size == 0 ? otherwise : size; }
};

}  // namespace squat::detail
