// Tokens that stay in full precision for good.
#pragma once

#include <squat/detail/records/layer_format.hpp>
#include <squat/detail/store/token_buffer.hpp>

namespace squat::detail {

/// The first valid tokens of a sequence in one layer (Config::full_precision_tokens): their keys
/// and values [kv_heads * head_dim], and their positions, which ascend. reserve() is the only call
/// that can fail.
template <class Scalar>
struct FullPrecisionTokens {
  explicit FullPrecisionTokens(const LayerFormat& format)
      : keys(format.key_width(), 0), values(format.value_width(), 0) {}

  Index size() const { return positions.size(); }
  Index position(Index i) const { return *positions.row(i); }
  /// How many come before token `end`.
  Index before(Index end) const {
    Index count = size();
    while (count > 0 && position(count - 1) >= end) --count;
    return count;
  }
  bool contain(Index token) const { return before(token) < before(token + 1); }

  void reserve(Index count) {
    keys.reserve(count);
    values.reserve(count);
    positions.reserve(count);
  }
  void append(Index position, const Scalar* key, const Scalar* value) {
    std::copy_n(key, keys.width(), keys.append(1));
    std::copy_n(value, values.width(), values.append(1));
    *positions.append(1) = position;
  }
  void truncate(Index size) {
    keys.truncate(size);
    values.truncate(size);
    positions.truncate(size);
  }
  Index bytes() const { return keys.bytes() + values.bytes() + positions.bytes(); }

  TokenBuffer<Scalar> keys, values;
  TokenBuffer<Index> positions{1, 0};
};

}  // namespace squat::detail
