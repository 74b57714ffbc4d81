// The packed tokens of all kv heads over one token range.
#pragma once

#include <memory>
#include <squat/key_block.hpp>
#include <squat/slab.hpp>

namespace squat {

/// The key record and the value record of every kv head for one range of tokens. Keys arrive as a
/// whole block, values (and with KeyScales::per_token keys) one by one; truncation leaves the first
/// `tokens` of a block, whose codes stay what they are, and the next block starts a new row, while
/// what comes one by one fills the row again. Values follow the rows of the keys.
struct BlockRow {
  static constexpr Index max_tokens = 128;

  SlabSlot slot;
  std::shared_ptr<const std::vector<KeyBlock>> key_blocks;  ///< of each kv head
  std::int32_t tokens = 0;                                  ///< key tokens that count
  std::int32_t value_tokens = 0;
  bool has_padding = false;
  bool has_exact = false;                       ///< some are exact tokens of the layer
  std::uint32_t padding[max_tokens / 32] = {};  ///< bit per token

  const KeyBlock& key_block(Index head) const {
    return (*key_blocks)[static_cast<std::size_t>(head)];
  }

  std::byte* keys(Index head) const { return slot.keys(head); }
  std::byte* values(Index head) const { return slot.values(head); }

  bool is_valid(Index token) const { return !(padding[token / 32] >> (token % 32) & 1); }
  void set_valid(Index token, bool valid) {
    const std::uint32_t bit = std::uint32_t{1} << (token % 32);
    padding[token / 32] = valid ? padding[token / 32] & ~bit : padding[token / 32] | bit;
    has_padding |= !valid;
  }
};

}  // namespace squat
