// The packed blocks of a layer, and the slabs they lie in.
#pragma once

#include <algorithm>
#include <squat/detail/records/layer_format.hpp>
#include <squat/detail/store/token_block.hpp>
#include <squat/memory.hpp>
#include <vector>

namespace squat::detail {

/// The blocks of one layer and sequence, oldest first. A copy shares their records, until one of
/// both writes to them.
class TokenBlocks {
 public:
  explicit TokenBlocks(const LayerFormat& format)
      : kv_heads_(format.kv_heads()),
        tokens_(format.value_layout.tokens()),
        is_per_token_(format.blank_key_layout().is_per_token()),
        key_bytes_(format.blank_key_layout().bytes()),
        key_code_bytes_(format.blank_key_layout().code_bytes()),
        value_bytes_(format.stores_values() ? format.value_layout.bytes() : 0),
        value_code_bytes_(format.stores_values() ? format.value_layout.code_bytes() : 0) {}

  const std::vector<TokenBlock>& all() const { return blocks_; }
  Index size() const { return static_cast<Index>(blocks_.size()); }
  bool empty() const { return blocks_.empty(); }
  TokenBlock& operator[](Index block) { return blocks_[static_cast<std::size_t>(block)]; }
  const TokenBlock& operator[](Index block) const {
    return blocks_[static_cast<std::size_t>(block)];
  }
  TokenBlock& back() { return blocks_.back(); }
  const TokenBlock& back() const { return blocks_.back(); }
  /// Whether the key at `position` joins others in the last block.
  bool may_grow(Index position) const {
    return is_per_token_ && !empty() && back().tokens < tokens_ && back().turn == 0 &&
           back().end() == position;
  }

  /// Adds an empty block, the first of `coming`. It lies behind the last one if there is room.
  /// Slabs grow with the cache, so that at most an eighth of them, and 32 blocks, waits for tokens.
  TokenBlock& add(Index coming) {
    const Index eighth = size() / 8;
    TokenBlock block;
    block.slot = free_slot(size() - 1, std::clamp(std::max(eighth, coming), Index{1}, Index{32}));
    // Slots for tokens to come count as zero until they do.
    for (Index head = 0; head < kv_heads_; ++head) {
      if (is_per_token_) std::fill_n(block.keys(head), key_bytes_, std::byte{0});
      std::fill_n(block.values(head), value_bytes_, std::byte{0});
    }
    blocks_.push_back(std::move(block));
    return blocks_.back();
  }

  /// Adds an empty block that has the records and blocks of `other`.
  TokenBlock& share(const TokenBlock& other) {
    TokenBlock block;
    block.slot = other.slot;
    block.key_layouts = other.key_layouts;
    blocks_.push_back(std::move(block));
    return blocks_.back();
  }

  /// Makes two of the block that holds tokens before `position`, and from there on.
  void split(Index position) {
    for (Index b = 0; b < size(); ++b) {
      if ((*this)[b].first() >= position || (*this)[b].end() <= position) continue;
      TokenBlock front = (*this)[b];
      const auto slot = static_cast<std::int32_t>(position - front.position);
      TokenBlock& back = (*this)[b];
      back.begin = slot;
      back.value_tokens = std::max(back.value_tokens, slot);
      for (Index token = 0; token < slot; ++token) back.set_valid(token, false);
      front.tokens = slot;
      front.value_tokens = std::min(front.value_tokens, slot);
      blocks_.insert(blocks_.begin() + b, std::move(front));
      return;
    }
  }

  void erase(Index block) { blocks_.erase(blocks_.begin() + block); }

  /// Moves blocks that are not shared out of slabs of which they fill less than half, so that those
  /// are given back.
  void compact() {
    for (Index first = 0, end = 0; first < size(); first = end) {
      const Slab* const slab = &(*this)[first].slot.slab();
      while (end < size() && &(*this)[end].slot.slab() == slab) ++end;
      if (2 * (end - first) > slab->slots()) continue;
      SlabSlot target;
      for (Index b = first; b < end; ++b) {
        TokenBlock& block = (*this)[b];
        if (block.slot.is_shared()) continue;
        target = target ? target.next() : new_slab(end - b);
        block.slot = copy(block, target);
      }
    }
  }

  void pop_back() { blocks_.pop_back(); }
  void drop_front(Index count) noexcept { blocks_.erase(blocks_.begin(), blocks_.begin() + count); }

  /// Before records of blocks from `first` on are written to: those that another sequence has too
  /// move to copies.
  void own(Index first) {
    for (Index r = first; r < size(); ++r) {
      TokenBlock& block = (*this)[r];
      if (!block.slot.is_shared()) continue;
      block.slot = copy(block, free_slot(r - 1, size() - r));
    }
  }

  /// Drops blocks, and tokens of the last one, added since it was made, unless told to keep them.
  class Guard {
   public:
    explicit Guard(TokenBlocks& blocks)
        : blocks_(blocks.blocks_),
          size_(blocks_.size()),
          last_tokens_(size_ > 0 ? blocks_.back().tokens : 0) {}
    ~Guard() {
      if (is_kept_) return;
      blocks_.resize(size_);
      if (size_ > 0) blocks_.back().tokens = last_tokens_;
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    void keep() { is_kept_ = true; }

   private:
    std::vector<TokenBlock>& blocks_;
    std::size_t size_;
    std::int32_t last_tokens_;
    bool is_kept_ = false;
  };

  /// Of records, what their blocks share, and the blocks; `counted` says what other sequences
  /// share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage;
    usage.bookkeeping = static_cast<Index>(blocks_.capacity() * sizeof(TokenBlock));
    for (const TokenBlock& block : blocks_) {
      const Slab& slab = block.slot.slab();
      if (counted.insert(&slab).second) {
        usage.reserved += slab.bytes();
        usage.bookkeeping += slab.bookkeeping_bytes();
      }
      if (counted.insert(block.key_layouts.get()).second)
        for (const KeyRecordLayout& layout : *block.key_layouts) {
          usage.headers += layout.header_bytes();
          usage.bookkeeping += layout.bookkeeping_bytes();
        }
      if (!counted.insert(block.keys(0)).second) continue;
      // What comes one by one may still wait for a part of its record.
      const Index keys_to_come = is_per_token_ ? tokens_ - block.tokens : Index{0};
      const Index values_to_come = keys_to_come + block.waiting_values();
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
  /// A slot behind that of `block`, or else the first one of a new slab of `slots`.
  SlabSlot free_slot(Index block, Index slots) const {
    SlabSlot slot;
    if (block >= 0) slot = (*this)[block].slot.next();
    return slot ? slot : new_slab(slots);
  }

  /// The first slot of a new slab.
  SlabSlot new_slab(Index slots) const {
    return SlabSlot::first_of(std::make_shared<Slab>(slots, kv_heads_, key_bytes_, value_bytes_));
  }

  /// `slot`, with the records of `block`.
  SlabSlot copy(const TokenBlock& block, SlabSlot slot) const {
    for (Index head = 0; head < kv_heads_; ++head) {
      std::copy_n(block.keys(head), key_bytes_, slot.keys(head));
      std::copy_n(block.values(head), value_bytes_, slot.values(head));
    }
    return slot;
  }

  Index kv_heads_;
  Index tokens_;       // of a block
  bool is_per_token_;  // keys come one by one
  Index key_bytes_;
  Index key_code_bytes_;
  Index value_bytes_;
  Index value_code_bytes_;
  std::vector<TokenBlock> blocks_;
};

}  // namespace squat::detail
