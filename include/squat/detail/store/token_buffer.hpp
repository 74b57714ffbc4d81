// Rows, one a token: they come in at the back, and most leave at the front.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <squat/matrix.hpp>

namespace squat::detail {

/// Rows of `width` trivially copyable elements, contiguous in memory. reserve() is the only call
/// that can fail; after it, that many rows can be appended.
template <class T>
class TokenBuffer {
 public:
  /// A window that slides by one row a token is moved to the front only every `spare_rows` tokens.
  explicit TokenBuffer(Index width, Index spare_rows = 4)
      : width_(width), spare_rows_(spare_rows) {}
  TokenBuffer(const TokenBuffer& other) : width_(other.width_), spare_rows_(other.spare_rows_) {
    reserve(other.size_);
    if (other.size_ > 0) std::copy(other.row(0), other.row(other.size_), append(other.size_));
  }
  TokenBuffer(TokenBuffer&&) noexcept = default;
  TokenBuffer& operator=(TokenBuffer&&) noexcept = default;

  Index width() const { return width_; }
  Index size() const { return size_; }
  Index capacity() const { return capacity_; }
  Index bytes() const { return capacity_ * width_ * Index{sizeof(T)}; }
  T* row(Index token) { return data_.get() + (first_ + token) * width_; }
  const T* row(Index token) const { return data_.get() + (first_ + token) * width_; }

  /// Makes room for `count` more rows.
  void reserve(Index count) {
    if (first_ + size_ + count <= capacity_) return;
    if (size_ + count <= capacity_) {
      std::copy(row(0), row(size_), data_.get());
      first_ = 0;
    } else {
      const Index capacity = size_ + count + spare_rows_;
      adopt(new T[elements(capacity)], capacity);  // uninitialised: rows are written, then read
    }
  }

  /// The first of `count` new rows at the back, for the caller to fill. Needs reserve(count).
  T* append(Index count) {
    size_ += count;
    return row(size_ - count);
  }

  void pop_front(Index count) {
    first_ += count;
    size_ -= count;
    if (size_ == 0) first_ = 0;
  }

  void truncate(Index size) {
    size_ = size;
    if (size_ == 0) first_ = 0;
  }

  /// Takes rows [begin, end) out.
  void erase(Index begin, Index end) {
    if (begin == end) return;
    std::copy(row(end), row(size_), row(begin));
    truncate(size_ - (end - begin));
  }

  /// Gives back the memory of rows that left.
  void shrink() noexcept {
    const Index enough = size_ > 0 ? size_ + spare_rows_ : 0;
    if (capacity_ <= enough + (size_ > 0 ? 2 * spare_rows_ : 0)) return;
    // Without the memory for a smaller copy the large one serves on.
    if (T* data = new (std::nothrow) T[elements(enough)]) adopt(data, enough);
  }

 private:
  std::size_t elements(Index rows) const { return static_cast<std::size_t>(rows * width_); }

  /// Moves to `data`, room for `capacity` rows.
  void adopt(T* data, Index capacity) {
    if (size_ > 0) std::copy(row(0), row(size_), data);
    data_.reset(data);
    capacity_ = capacity;
    first_ = 0;
  }

  Index width_;
  Index spare_rows_;
  std::unique_ptr<T[]> data_;
  Index capacity_ = 0;
  Index first_ = 0;
  Index size_ = 0;
};

}  // namespace squat::detail
