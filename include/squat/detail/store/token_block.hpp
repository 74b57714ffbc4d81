// The packed tokens of all kv heads over one token range.
#pragma once

#include <memory>
#include <squat/detail/records/key_layouts.hpp>
#include <squat/detail/store/slab.hpp>

namespace squat::detail {

/// The key record and the value record of every kv head for one range of tokens. Keys arrive as a
/// whole block, values (and with KeyScales::per_token keys) one by one; truncation leaves the first
/// `tokens` of a block, whose codes stay what they are, and the next block starts a new block,
/// while what comes one by one fills the block again. Values follow the blocks of the keys. Where
/// a part of its tokens moves (SQuatCache::shift) a block becomes two of the same slot.
struct TokenBlock {
  static constexpr Index max_tokens = 128;

  SlabSlot slot;
  KeyLayouts key_layouts;   ///< of each kv head
  Index position = 0;       ///< of slot 0, which may be none of the block's tokens
  Index turn = 0;           ///< by how many positions keys are to be turned
  std::int32_t begin = 0;   ///< slots before it are none of the block's tokens, and not valid
  std::int32_t tokens = 0;  ///< key tokens that count
  std::int32_t value_tokens = 0;
  bool has_padding = false;
  bool has_full_precision = false;              ///< some are full-precision tokens
  std::uint32_t padding[max_tokens / 32] = {};  ///< bit per token

  Index first() const { return position + begin; }  ///< the first position
  Index end() const { return position + tokens; }   ///< behind the last position
  /// Slots whose values are not packed yet.
  Index waiting_values() const { return tokens - value_tokens; }

  const KeyRecordLayout& key_layout(Index head) const {
    return (*key_layouts)[static_cast<std::size_t>(head)];
  }

  /// What its packed values are more than their codes say [value_dim], or null.
  const float* value_mean(Index head) const {
    const std::vector<float>& mean = key_layout(head).value_mean();
    return mean.empty() ? nullptr : mean.data();
  }
  /// What the scales of its values count in.
  template <class Real>
  Real value_unit(Index head) const {
    return unit_of<Real>(key_layout(head).units().values);
  }

  /// Of its values, where they are rotated.
  Rotation rotation() const { return key_layout(0).rotation(); }

  std::byte* keys(Index head) const { return slot.keys(head); }
  std::byte* values(Index head) const { return slot.values(head); }

  /// Whether a slot holds a token that is not padding.
  bool is_valid(Index token) const { return !(padding[token / 32] >> (token % 32) & 1); }
  void set_valid(Index token, bool valid) {
    const std::uint32_t bit = std::uint32_t{1} << (token % 32);
    padding[token / 32] = valid ? padding[token / 32] & ~bit : padding[token / 32] | bit;
    has_padding |= !valid;
  }
};

}  // namespace squat::detail
