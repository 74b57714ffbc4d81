// What attention sees of a layer.
#pragma once

#include <squat/detail/records/layer_format.hpp>
#include <squat/detail/store/full_precision_tokens.hpp>
#include <squat/detail/store/token_block.hpp>

namespace squat::detail {

/// The tokens of one layer and sequence, to be read; valid until the layer changes. Older ones are
/// packed in `blocks`, of which the last ones may lack values; newer ones are in the residual.
/// Positions ascend; where some are missing their tokens were erased. Full-precision tokens are
/// there in addition, in place of what their slots hold.
template <class Scalar>
struct LayerView {
  const LayerFormat& format;
  const std::vector<TokenBlock>& blocks;  ///< oldest first
  const TokenRows<Scalar>& residual_keys;
  const TokenRows<Scalar>& residual_values;         ///< those of blocks that lack them come first
  const TokenBuffer<std::uint8_t>& residual_valid;  ///< of residual_keys; 0 for padding
  const FullPrecisionTokens<Scalar>& full_precision;
  Index first;           ///< position before which all is dropped
  Index residual_begin;  ///< position of the first residual key

  Index size() const { return residual_begin + residual_keys.size(); }
  const ValueRecordLayout& value_layout() const { return format.value_layout; }
  /// Residual key at `position`. Padding is zero.
  TokenRow<Scalar> key(Index position) const { return {residual_keys, position - residual_begin}; }
  /// Value of the same token, the first numbers of a row.
  TokenRow<Scalar> value(Index position) const {
    if (!format.stores_values()) return key(position);
    return {residual_values,
            residual_values.size() - residual_keys.size() + position - residual_begin};
  }
  /// Of full-precision token `i`.
  TokenRow<Scalar> full_precision_key(Index i) const { return {full_precision.keys, i}; }
  TokenRow<Scalar> full_precision_value(Index i) const {
    return {format.stores_values() ? full_precision.values : full_precision.keys, i};
  }
  /// Value in `slot` of a block that lacks it.
  TokenRow<Scalar> waiting_value(const TokenBlock& block, Index slot) const {
    Index behind = residual_keys.size();
    for (const TokenBlock* b = &block; b < blocks.data() + blocks.size(); ++b)
      behind += b->waiting_values();
    return {residual_values, residual_values.size() - behind + slot - block.value_tokens};
  }

  /// Whether there is a token at `position` that is not padding.
  bool is_valid(Index position) const {
    if (position >= residual_begin)
      return position < size() && *residual_valid.row(position - residual_begin) != 0;
    const TokenBlock* const block = blocks.data() + block_at(position);
    return block < blocks.data() + blocks.size() && position >= block->first() &&
           block->is_valid(position - block->position);
  }

  /// The first block that ends behind `position`.
  Index block_at(Index position) const {
    const auto block = std::partition_point(
        blocks.begin(), blocks.end(), [&](const TokenBlock& one) { return one.end() <= position; });
    return static_cast<Index>(block - blocks.begin());
  }
};

}  // namespace squat::detail
