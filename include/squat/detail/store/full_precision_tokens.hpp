// Tokens that stay in full precision for good.
#pragma once

#include <algorithm>
#include <squat/detail/records/layer_format.hpp>
#include <squat/detail/store/token_rows.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// The first valid tokens of a sequence in one layer (Config::full_precision_tokens), and behind
/// them outliers, which ExactKeys chose: their keys and values [kv_heads * head_dim], and their
/// positions, which ascend. Others do not take the place of those that are erased. reserve() is the
/// only call that can fail.
template <class Scalar>
struct FullPrecisionTokens {
  explicit FullPrecisionTokens(const LayerFormat& format)
      : keys(format.kv_heads(), format.head_dim(), bits(format), 0),
        values(format.kv_heads(), format.shape.own_value_width(), bits(format), 0),
        most_sinks(format.shape.sink_tokens) {}

  Index size() const { return positions.size(); }
  Index position(Index i) const { return *positions.row(i); }
  /// How many come before token `end`.
  Index before(Index end) const {
    const Index* const first = positions.row(0);
    return std::lower_bound(first, first + size(), end) - first;
  }
  bool contain(Index token) const { return before(token) < before(token + 1); }

  void reserve(Index count) {
    keys.reserve(count);
    values.reserve(count);
    positions.reserve(count);
  }
  void append(Index position, const Scalar* key, const Scalar* value) {
    keys.append(key);
    values.append(value);
    *positions.append(1) = position;
    sinks += taken < most_sinks;
    ++taken;
  }
  /// Behind all others.
  void append_outlier(Index position, const Scalar* key, const Scalar* value) {
    keys.append(key);
    values.append(value);
    *positions.append(1) = position;
    ++outliers;
  }
  /// Drops outliers that were appended since it was made, unless it was told to keep them.
  class Guard {
   public:
    explicit Guard(FullPrecisionTokens& tokens) : tokens_(tokens), size_(tokens.size()) {}
    ~Guard() {
      if (!is_kept_) tokens_.drop(size_, tokens_.size());
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    void keep() { is_kept_ = true; }

   private:
    FullPrecisionTokens& tokens_;
    Index size_;
    bool is_kept_ = false;
  };

  /// Drops the outliers before position `end`.
  void drop_outliers(Index end) {
    const Index first = size() - outliers;
    drop(first, std::max(first, before(end)));
  }
  /// Drops those from position `end` on, as if they had never come.
  void truncate(Index end) {
    const Index kept = before(end);
    taken = end == 0 ? 0 : taken - std::max(size() - outliers - kept, Index{0});
    drop(kept, size());
  }
  /// Drops those at positions of `range`.
  void erase(const TokenRange& range) { drop(before(range.begin), before(range.end)); }
  Index bytes() const { return keys.bytes() + values.bytes() + positions.bytes(); }

  TokenRows<Scalar> keys, values;
  TokenBuffer<Index> positions{1, 0};
  Index taken = 0;  ///< how many there were, erased ones included
  Index sinks = 0;  ///< so many of the first ones are attention sinks (LayerShape::sink_tokens)
  Index most_sinks;
  Index outliers = 0;  ///< so many of the last ones, which are not among the first tokens

 private:
  // There are few of them, and models attend to them most.
  static int bits(const LayerFormat& format) { return format.settings.residual_bits == 0 ? 0 : 16; }

  void drop(Index begin, Index end) {
    sinks -= std::min(end, sinks) - std::min(begin, sinks);
    const Index first = size() - outliers;
    outliers -= std::max(end, first) - std::max(begin, first);
    keys.erase(begin, end);
    values.erase(begin, end);
    positions.erase(begin, end);
  }
};

}  // namespace squat::detail
