// What a configuration may say.
#pragma once

#include <cmath>
#include <squat/config.hpp>
#include <squat/detail/finite.hpp>
#include <squat/error.hpp>
#include <string>

namespace squat::detail {

inline void check_group_size(const char* field, Index size) {
  require(size == 0 || size == 32 || size == 64 || size == 128 || size == 256 || size == 512,
          "config.", field, " is ", size,
          "; it must be 32, 64, 128, 256 or 512, or 0 for token_group_size");
}

/// Of all layers, or of layer `name`.
inline void check_bits(const std::string& name, const LayerBits& bits, bool adaptive) {
  const bool all = name.empty();
  require(is_finite(bits.keys) && (bits.keys == 0 || (bits.keys >= 1 && bits.keys <= 8)), "config.",
          name, "key_bits is ", bits.keys, "; it must be 1 to 8, or 0 for ",
          all ? "KeyBits" : "config.key_bits");
  require(adaptive || bits.keys == std::floor(bits.keys), "config.", name, "key_bits is ",
          bits.keys, "; without adaptive_bits it must be whole");
  require((bits.values >= 0 && bits.values <= 4) || bits.values == 8, "config.", name,
          "value_bits is ", bits.values, "; it must be 1, 2, 3, 4 or 8, or 0 for ",
          all ? "ValueBits" : "config.value_bits");
}

inline void check(const Config& config) {
  require(config.backend == Backend::quanto || config.backend == Backend::hqq ||
              config.backend == Backend::unbiased,
          "config.backend is ", static_cast<int>(config.backend),
          "; it must be quanto (0), hqq (1) or unbiased (2)");
  require(config.quant_group_size >= 1, "config.quant_group_size is ", config.quant_group_size,
          "; it must be at least 1");
  require(config.token_group_size == 32 || config.token_group_size == 64 ||
              config.token_group_size == 128,
          "config.token_group_size is ", config.token_group_size, "; it must be 32, 64 or 128");
  const bool per_token = config.key_scales == KeyScales::per_token;
  require(per_token || config.key_scales == KeyScales::per_channel, "config.key_scales is ",
          static_cast<int>(config.key_scales), "; it must be per_channel (0) or per_token (1)");
  if (per_token)
    require(config.residual_length >= 0, "config.residual_length is ", config.residual_length,
            "; it must be 0 or more");
  else
    require(config.residual_length >= config.token_group_size &&
                config.residual_length % config.token_group_size == 0,
            "config.residual_length is ", config.residual_length,
            "; it must be a positive multiple of token_group_size (", config.token_group_size,
            "): that many keys share a channel's scale (key_scales = per_token needs no residual)");
  require(is_finite(config.squat_lambda) && config.squat_lambda >= 0, "config.squat_lambda is ",
          config.squat_lambda, "; it must be finite and not negative");
  require(config.subspace_dim >= 1, "config.subspace_dim is ", config.subspace_dim,
          "; it must be at least 1");
  require(config.scale_bits == 8 || config.scale_bits == 16 || config.scale_bits == 32,
          "config.scale_bits is ", config.scale_bits, "; it must be 8, 16 or 32");
  check_bits("", {config.key_bits, config.value_bits}, config.adaptive_bits);
  for (std::size_t layer = 0; layer < config.layer_bits.size(); ++layer)
    check_bits("layer_bits[" + std::to_string(layer) + "].", config.layer_bits[layer],
               config.adaptive_bits);
  require(
      !per_token || !config.adaptive_bits,
      "config.adaptive_bits is true; with key_scales = per_token it must be false: the channels "
      "of a group share a scale");
  require(per_token || !config.rotate_keys,
          "config.rotate_keys is true; without key_scales = per_token it must be false: outliers "
          "keep to their channels, which have scales of their own");
  require(
      !per_token || !config.rolling_residual,
      "config.rolling_residual is true; with key_scales = per_token it must be false: keys leave "
      "one by one");
  check_group_size("key_group_size", config.key_group_size);
  require(per_token || config.key_group_size == 0, "config.key_group_size is ",
          config.key_group_size, "; without key_scales = per_token it must be 0");
  check_group_size("value_group_size", config.value_group_size);
  require(config.value_grid == ValueGrid::min_max || config.value_grid == ValueGrid::symmetric,
          "config.value_grid is ", static_cast<int>(config.value_grid),
          "; it must be min_max (0) or symmetric (1)");
  require(config.residual_bits == 0 || config.residual_bits == 8 || config.residual_bits == 16,
          "config.residual_bits is ", config.residual_bits,
          "; it must be 8 or 16, or 0 for those of Scalar");
  require(config.full_precision_tokens >= 0 && config.full_precision_tokens <= 1024,
          "config.full_precision_tokens is ", config.full_precision_tokens,
          "; it must be 0 to 1024");
  require(is_finite(config.query_decay) && config.query_decay >= 0 && config.query_decay <= 1,
          "config.query_decay is ", config.query_decay, "; it must be 0 to 1");
  require(config.subspace_queries == SubspaceQueries::after_rope ||
              config.subspace_queries == SubspaceQueries::before_rope,
          "config.subspace_queries is ", static_cast<int>(config.subspace_queries),
          "; it must be after_rope (0) or before_rope (1)");
  require(config.subspace_method == SubspaceMethod::eigen ||
              config.subspace_method == SubspaceMethod::power,
          "config.subspace_method is ", static_cast<int>(config.subspace_method),
          "; it must be eigen (0) or power (1)");
  require(config.arithmetic == Arithmetic::fast || config.arithmetic == Arithmetic::dequantized,
          "config.arithmetic is ", static_cast<int>(config.arithmetic),
          "; it must be fast (0) or dequantized (1)");
}

/// What a cache of both needs, each and together.
inline void check(const ModelShape& shape, const Config& config) {
  check(shape);
  check(config);
  require(config.layer_bits.empty() || static_cast<Index>(config.layer_bits.size()) == shape.layers,
          "config.layer_bits has ", config.layer_bits.size(),
          " entries; it must have one for each of the ", shape.layers, " layers, or none");
  for (Index layer = 0; layer < shape.layers; ++layer)
    require(config.subspace_queries == SubspaceQueries::after_rope ||
                shape.layer(layer).rope.is_by_cache(),
            "config.subspace_queries is before_rope; where the cache applies no rope it must be "
            "after_rope");
}

}  // namespace squat::detail
