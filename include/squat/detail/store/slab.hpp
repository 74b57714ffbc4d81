// Memory for packed records, in slots that several sequences may share.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <squat/matrix.hpp>
#include <utility>

namespace squat::detail {

/// Memory for the records of several rows of blocks; a row lies in a slot. Attention walks one kv
/// head over all rows, so the records of a head lie one behind the other:
///
///     KeyRecordLayout record[kv_heads][slots]     on a cache line boundary
///     ValueRecordLayout record[kv_heads][slots]
///
/// Slots are taken and given back on any thread.
class Slab {
 public:
  /// Sizes of records are in bytes, multiples of record_alignment.
  Slab(Index slots, Index kv_heads, Index key_record, Index value_record)
      : slots_(slots),
        kv_heads_(kv_heads),
        key_record_(key_record),
        value_record_(value_record),
        owners_(new std::atomic<std::int32_t>[static_cast<std::size_t>(slots)]()),
        data_(static_cast<std::byte*>(
            ::operator new (static_cast<std::size_t>(bytes()), std::align_val_t{alignment}))) {}

  Index slots() const { return slots_; }
  Index bytes() const { return slots_ * kv_heads_ * (key_record_ + value_record_); }
  Index bookkeeping_bytes() const {
    return Index{sizeof(*this)} + slots_ * Index{sizeof(owners_[0])};
  }

  std::byte* keys(Index slot, Index head) const {
    return data_.get() + (head * slots_ + slot) * key_record_;
  }
  std::byte* values(Index slot, Index head) const {
    return data_.get() + slots_ * kv_heads_ * key_record_ + (head * slots_ + slot) * value_record_;
  }

  /// Makes the caller the owner of `slot`, unless it has one.
  bool claim(Index slot) noexcept {
    std::int32_t nobody = 0;
    // Here and in is_shared: whoever writes next comes after all that former owners read.
    return owners(slot).compare_exchange_strong(nobody, 1, std::memory_order_acquire,
                                                std::memory_order_relaxed);
  }
  /// Whether another owner than the caller may be reading `slot`.
  bool is_shared(Index slot) const noexcept {
    return owners(slot).load(std::memory_order_acquire) > 1;
  }
  void add_owner(Index slot) noexcept { owners(slot).fetch_add(1, std::memory_order_relaxed); }
  void drop_owner(Index slot) noexcept { owners(slot).fetch_sub(1, std::memory_order_release); }

 private:
  static constexpr std::size_t alignment = 64;
  struct Free {
    void operator()(std::byte* data) const {
      ::operator delete (data, std::align_val_t{alignment});
    }
  };

  std::atomic<std::int32_t>& owners(Index slot) const {
    return owners_[static_cast<std::size_t>(slot)];
  }

  Index slots_;
  Index kv_heads_;
  Index key_record_;
  Index value_record_;
  std::unique_ptr<std::atomic<std::int32_t>[]> owners_;  // how many of each slot
  std::unique_ptr<std::byte, Free> data_;
};

/// An owner of a slot, which is free again when the last one is gone. A copy is one more.
class SlabSlot {
 public:
  SlabSlot() = default;
  SlabSlot(const SlabSlot& other) noexcept : slab_(other.slab_), slot_(other.slot_) {
    if (slab_) slab_->add_owner(slot_);
  }
  SlabSlot(SlabSlot&& other) noexcept = default;
  SlabSlot& operator=(SlabSlot other) noexcept {
    std::swap(slab_, other.slab_);
    std::swap(slot_, other.slot_);
    return *this;
  }
  ~SlabSlot() {
    if (slab_) slab_->drop_owner(slot_);
  }

  /// The first slot of a new slab.
  static SlabSlot first_of(std::shared_ptr<Slab> slab) noexcept {
    SlabSlot first;
    slab->claim(0);
    first.slab_ = std::move(slab);
    return first;
  }

  /// The slot behind this one, or none if it has an owner or the slab ends.
  SlabSlot next() const noexcept {
    SlabSlot behind;
    if (slab_ && slot_ + 1 < slab_->slots() && slab_->claim(slot_ + 1)) {
      behind.slab_ = slab_;
      behind.slot_ = slot_ + 1;
    }
    return behind;
  }

  explicit operator bool() const { return slab_ != nullptr; }
  const Slab& slab() const { return *slab_; }
  bool is_shared() const { return slab_->is_shared(slot_); }
  std::byte* keys(Index head) const { return slab_->keys(slot_, head); }
  std::byte* values(Index head) const { return slab_->values(slot_, head); }

 private:
  std::shared_ptr<Slab> slab_;
  Index slot_ = 0;
};

}  // namespace squat::detail
