// The packed tokens of all kv heads over one token range, and the memory that they share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <squat/key_block.hpp>

namespace squat {

/// Memory for the records of several rows of blocks. Attention walks one kv head over all rows, so
/// the records of a head lie one behind the other:
///
///     KeyBlock record[kv_heads][rows]     on a cache line boundary
///     ValueBlock record[kv_heads][rows]
class Slab {
 public:
  /// Sizes of records are in bytes, multiples of record_alignment.
  Slab(Index rows, Index kv_heads, Index key_record, Index value_record)
      : rows_(rows),
        kv_heads_(kv_heads),
        key_record_(key_record),
        value_record_(value_record),
        data_(static_cast<std::byte*>(
            ::operator new (static_cast<std::size_t>(bytes()), std::align_val_t{alignment}))) {}

  Index rows() const { return rows_; }
  Index bytes() const { return rows_ * kv_heads_ * (key_record_ + value_record_); }

  std::byte* keys(Index row, Index head) const {
    return data_.get() + (head * rows_ + row) * key_record_;
  }
  std::byte* values(Index row, Index head) const {
    return data_.get() + rows_ * kv_heads_ * key_record_ + (head * rows_ + row) * value_record_;
  }

 private:
  static constexpr std::size_t alignment = 64;
  struct Free {
    void operator()(std::byte* data) const {
      ::operator delete (data, std::align_val_t{alignment});
    }
  };

  Index rows_;
  Index kv_heads_;
  Index key_record_;
  Index value_record_;
  std::unique_ptr<std::byte, Free> data_;
};

/// The key record and the value record of every kv head for one range of tokens. Keys arrive as a
/// whole block, values one by one; truncation leaves the first `tokens` of a block, whose codes
/// stay what they are, and the next block starts a new row. Values follow the rows of the keys.
struct BlockRow {
  static constexpr Index max_tokens = 128;

  std::shared_ptr<Slab> slab;
  std::shared_ptr<const std::vector<KeyBlock>> key_blocks;  ///< of each kv head
  std::int32_t slot = 0;                                    ///< row of the slab
  std::int32_t tokens = 0;                                  ///< key tokens that count
  std::int32_t value_tokens = 0;
  bool has_padding = false;
  bool has_exact = false;                       ///< some are exact tokens of the layer
  std::uint32_t padding[max_tokens / 32] = {};  ///< bit per token

  const KeyBlock& key_block(Index head) const {
    return (*key_blocks)[static_cast<std::size_t>(head)];
  }

  std::byte* keys(Index head) const { return slab->keys(slot, head); }
  std::byte* values(Index head) const { return slab->values(slot, head); }

  bool is_valid(Index token) const { return !(padding[token / 32] >> (token % 32) & 1); }
  void set_padding(Index token) {
    padding[token / 32] |= std::uint32_t{1} << (token % 32);
    has_padding = true;
  }
};

}  // namespace squat
