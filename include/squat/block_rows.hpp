// The packed rows of a layer, and the slabs they lie in.
#pragma once

#include <algorithm>
#include <squat/block_row.hpp>
#include <squat/memory.hpp>
#include <squat/value_block.hpp>
#include <vector>

namespace squat {

/// The rows of one layer and sequence, oldest first. A copy shares their records, until one of both
/// writes to them.
class BlockRows {
 public:
  /// All key records have the size of `key_block`'s.
  BlockRows(Index kv_heads, const KeyBlock& key_block, const ValueBlock& value_block)
      : kv_heads_(kv_heads),
        tokens_(value_block.tokens()),
        is_per_token_(key_block.is_per_token()),
        key_bytes_(key_block.bytes()),
        key_code_bytes_(key_block.code_bytes()),
        value_bytes_(value_block.bytes()),
        value_code_bytes_(value_block.code_bytes()) {}

  const std::vector<BlockRow>& all() const { return rows_; }
  Index size() const { return static_cast<Index>(rows_.size()); }
  bool empty() const { return rows_.empty(); }
  BlockRow& operator[](Index row) { return rows_[static_cast<std::size_t>(row)]; }
  const BlockRow& operator[](Index row) const { return rows_[static_cast<std::size_t>(row)]; }
  BlockRow& back() { return rows_.back(); }
  const BlockRow& back() const { return rows_.back(); }

  /// Adds an empty row, the first of `coming`. It lies behind the last one if there is room. Slabs
  /// grow with the cache, so that at most an eighth of them, and 32 rows, waits for tokens.
  BlockRow& add(Index coming) {
    const Index eighth = size() / 8;
    BlockRow row;
    row.slot = free_slot(size() - 1, std::clamp(std::max(eighth, coming), Index{1}, Index{32}));
    // Slots for tokens to come count as zero until they do.
    for (Index head = 0; head < kv_heads_; ++head) {
      if (is_per_token_) std::fill_n(row.keys(head), key_bytes_, std::byte{0});
      std::fill_n(row.values(head), value_bytes_, std::byte{0});
    }
    rows_.push_back(std::move(row));
    return rows_.back();
  }

  /// Adds an empty row that has the records and blocks of `other`.
  BlockRow& share(const BlockRow& other) {
    BlockRow row;
    row.slot = other.slot;
    row.key_blocks = other.key_blocks;
    rows_.push_back(std::move(row));
    return rows_.back();
  }

  void pop_back() { rows_.pop_back(); }
  void drop_front(Index count) noexcept { rows_.erase(rows_.begin(), rows_.begin() + count); }

  /// Before records of rows from `first` on are written to: those that another sequence has too
  /// move to copies.
  void own(Index first) {
    for (Index r = first; r < size(); ++r) {
      BlockRow& row = (*this)[r];
      if (!row.slot.is_shared()) continue;
      SlabSlot copy = free_slot(r - 1, size() - r);
      for (Index head = 0; head < kv_heads_; ++head) {
        std::copy_n(row.keys(head), key_bytes_, copy.keys(head));
        std::copy_n(row.values(head), value_bytes_, copy.values(head));
      }
      row.slot = std::move(copy);
    }
  }

  /// Drops rows, and tokens of the last one, added since it was made, unless told to keep them.
  class Guard {
   public:
    explicit Guard(BlockRows& rows)
        : rows_(rows.rows_),
          size_(rows_.size()),
          last_tokens_(size_ > 0 ? rows_.back().tokens : 0) {}
    ~Guard() {
      if (is_kept_) return;
      rows_.resize(size_);
      if (size_ > 0) rows_.back().tokens = last_tokens_;
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    void keep() { is_kept_ = true; }

   private:
    std::vector<BlockRow>& rows_;
    std::size_t size_;
    std::int32_t last_tokens_;
    bool is_kept_ = false;
  };

  /// Of records, what their blocks share, and the rows; `counted` says what other sequences share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage;
    usage.bookkeeping = static_cast<Index>(rows_.capacity() * sizeof(BlockRow));
    for (const BlockRow& row : rows_) {
      const Slab& slab = row.slot.slab();
      if (counted.insert(&slab).second) {
        usage.reserved += slab.bytes();
        usage.bookkeeping += slab.bookkeeping_bytes();
      }
      if (counted.insert(row.key_blocks.get()).second)
        for (const KeyBlock& block : *row.key_blocks) {
          usage.headers += block.header_bytes();
          usage.bookkeeping += block.bookkeeping_bytes();
        }
      if (!counted.insert(row.keys(0)).second) continue;
      // What comes one by one may still wait for a part of its record.
      const Index keys_to_come = is_per_token_ ? tokens_ - row.tokens : Index{0};
      const Index values_to_come = keys_to_come + row.tokens - row.value_tokens;
      const auto used = [&](Index bytes, Index to_come) {
        return bytes - bytes * to_come / tokens_;
      };
      const Index codes = kv_heads_ * (used(key_code_bytes_, keys_to_come) +
                                       used(value_code_bytes_, values_to_come));
      const Index records =
          kv_heads_ * (used(key_bytes_, keys_to_come) + used(value_bytes_, values_to_come));
      usage.codes += codes;
      usage.scales += records - codes;
      usage.reserved -= records;
    }
    return usage;
  }

 private:
  /// A slot behind that of `row`, or else the first one of a new slab of `slots`.
  SlabSlot free_slot(Index row, Index slots) const {
    SlabSlot slot;
    if (row >= 0) slot = (*this)[row].slot.next();
    if (slot) return slot;
    return SlabSlot::first_of(std::make_shared<Slab>(slots, kv_heads_, key_bytes_, value_bytes_));
  }

  Index kv_heads_;
  Index tokens_;       // of a block
  bool is_per_token_;  // keys come one by one
  Index key_bytes_;
  Index key_code_bytes_;
  Index value_bytes_;
  Index value_code_bytes_;
  std::vector<BlockRow> rows_;
};

}  // namespace squat
