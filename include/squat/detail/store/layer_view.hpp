// What attention sees of a layer.
#pragma once

#include <squat/detail/records/layer_format.hpp>
#include <squat/detail/store/full_precision_tokens.hpp>
#include <squat/detail/store/token_block.hpp>

namespace squat::detail {

/// The tokens of one layer and sequence, to be read; valid until the layer changes. Keys
/// [first, quantized_keys) and values [first, quantized_values) are packed in `blocks`, of which
/// the last ones may lack values; newer ones are in the residual. Full-precision tokens are there
/// in addition, in place of what their slots hold.
template <class Scalar>
struct LayerView {
  const LayerFormat& format;
  const std::vector<TokenBlock>& blocks;  ///< oldest first
  const TokenBuffer<Scalar>& residual_keys;
  const TokenBuffer<Scalar>& residual_values;
  const TokenBuffer<std::uint8_t>& residual_valid;  ///< of residual_keys; 0 for padding
  const FullPrecisionTokens<Scalar>& full_precision;
  Index first;
  Index quantized_keys;
  Index quantized_values;

  Index size() const { return quantized_keys + residual_keys.size(); }
  const ValueRecordLayout& value_layout() const { return format.value_layout; }
  /// Residual key of `token` [kv_heads * head_dim]; token >= quantized_keys. Padding is zero.
  const Scalar* key(Index token) const { return residual_keys.row(token - quantized_keys); }
  /// Residual value of `token` [kv_heads * head_dim]; token >= quantized_values.
  const Scalar* value(Index token) const { return residual_values.row(token - quantized_values); }

  /// Whether `token` is there and not padding.
  bool is_valid(Index token) const {
    if (token < first) return false;
    if (token >= quantized_keys) return *residual_valid.row(token - quantized_keys) != 0;
    std::size_t block = blocks.size() - 1;
    Index begin = quantized_keys - blocks[block].tokens;
    while (token < begin) begin -= blocks[--block].tokens;
    return blocks[block].is_valid(token - begin);
  }

  /// Where reading from `token` on begins: with a block of `blocks` and its first token, or behind
  /// the blocks with the token itself.
  struct Place {
    Index block;
    Index first;
  };
  Place place(Index token) const {
    const Index count = static_cast<Index>(blocks.size());
    Place place{0, first};
    while (place.block < count && place.first + tokens(place.block) <= token)
      place.first += tokens(place.block++);
    if (place.block == count) place.first = std::max(place.first, token);
    return place;
  }

 private:
  Index tokens(Index block) const { return blocks[static_cast<std::size_t>(block)].tokens; }
};

}  // namespace squat::detail
