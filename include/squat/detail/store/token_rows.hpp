// Keys or values of tokens that are not packed.
#pragma once

#include <squat/detail/store/row_format.hpp>
#include <squat/detail/store/token_buffer.hpp>

namespace squat::detail {

/// Rows [heads * width], one a token, in bits of Config::residual_bits. With 8 bits rows come in
/// with 16, and have them until settle(). A row that 8 bits would ruin keeps 16, and so do those
/// behind it as long as it is there. reserve(), settle() and copy() are the only calls that can
/// fail.
template <class Scalar>
class TokenRows {
 public:
  using Format = RowFormat<Scalar>;

  /// `bits` is 8, 16 or, for numbers as they come, 0; `spare_rows` as TokenBuffer has it.
  TokenRows(Index heads, Index width, int bits, Index spare_rows = 4)
      : old_format_(heads, width, bits),
        new_format_(heads, width, bits == 8 ? 16 : bits),
        old_(old_format_.bytes(), spare_rows),
        new_(new_format_.bytes(), spare_rows) {}

  /// Without rows, but for that of the same kind.
  TokenRows like() const { return {new_format_.heads(), new_format_.width(), old_format_.bits()}; }
  Index numbers() const { return new_format_.numbers(); }  ///< of a row
  Index size() const { return old_.size() + new_.size(); }
  Index bytes() const { return old_.bytes() + new_.bytes(); }

  void reserve(Index count) { new_.reserve(count); }
  /// Gives rows the bits in which they stay.
  void settle() {
    if (!can_settle()) return;
    Index count = 0;
    while (count < new_.size() && new_format_.can_shorten(new_.row(count))) ++count;
    old_.reserve(count);
    for (Index row = 0; row < count; ++row)
      Format::shorten(new_format_, new_.row(row), old_format_, old_.append(1));
    new_.pop_front(count);
  }
  void shrink() noexcept {
    old_.shrink();
    new_.shrink();
  }

  void pop_front(Index count) {
    const Index from_old = std::min(count, old_.size());
    old_.pop_front(from_old);
    new_.pop_front(count - from_old);
  }
  void truncate(Index size) {
    new_.truncate(std::max(size - old_.size(), Index{0}));
    old_.truncate(std::min(size, old_.size()));
  }
  void erase(Index begin, Index end) {
    const Index old = old_.size();
    old_.erase(std::min(begin, old), std::min(end, old));
    new_.erase(std::max(begin - old, Index{0}), std::max(end - old, Index{0}));
  }

  /// Appends rows of zeros. Needs reserve(count).
  void append_zeros(Index count) noexcept {
    std::fill_n(new_.append(count), count * new_.width(), std::byte{0});
  }
  /// Appends a row of numbers. Needs reserve(1).
  void append(const Scalar* numbers) noexcept { new_format_.encode(numbers, new_.append(1)); }
  void write(Index row, const Scalar* numbers) noexcept {
    format(row).encode(numbers, bytes_of(row));
  }
  void clear(Index row) noexcept { std::fill_n(bytes_of(row), format(row).bytes(), std::byte{0}); }
  /// Makes `row` what row `from` of `other` is, which is settled if `row` is.
  void copy(Index row, const TokenRows& other, Index from) {
    if (format(row).bits() == other.format(from).bits()) {
      std::copy_n(other.bytes_of(from), format(row).bytes(), bytes_of(row));
      return;
    }
    std::vector<Scalar> numbers(static_cast<std::size_t>(this->numbers()));
    other.read_settled(from, numbers.data());
    write(row, numbers.data());
  }

  /// The first `count` numbers of a head, a multiple of 8.
  template <class Out>
  void read(Index row, Index head, Index count, Out* out) const {
    format(row).decode(bytes_of(row), head, count, out);
  }
  /// All numbers of a head, as settle() leaves them: what is packed does not depend on when.
  template <class Out>
  void read_settled(Index row, Index head, Out* out) const {
    if (can_settle() && row >= old_.size())
      new_format_.decode_shortened(bytes_of(row), head, out);
    else
      read(row, head, new_format_.width(), out);
  }
  /// All numbers of a row, as settle() leaves them.
  template <class Out>
  void read_settled(Index row, Out* out) const {
    for (Index head = 0; head < new_format_.heads(); ++head)
      read_settled(row, head, out + head * new_format_.width());
  }

  /// The largest magnitude among the numbers of a head.
  float largest(Index row, Index head) const { return format(row).largest(bytes_of(row), head); }

  // For files.

  bool has_scales() const { return new_format_.bits() != 0; }
  bool can_settle() const { return old_format_.bits() != new_format_.bits(); }
  /// So many of the first rows have the bits in which they stay.
  Index settled() const { return old_.size(); }
  const Format& format(Index row) const { return row < old_.size() ? old_format_ : new_format_; }
  const std::byte* bytes_of(Index row) const {
    return row < old_.size() ? old_.row(row) : new_.row(row - old_.size());
  }
  std::byte* bytes_of(Index row) {
    return row < old_.size() ? old_.row(row) : new_.row(row - old_.size());
  }
  /// Appends a row of zeros, settled or not, and has memory for `ahead` more.
  void append_blank(bool settled, Index ahead) {
    TokenBuffer<std::byte>& rows = settled ? old_ : new_;
    if (rows.size() == rows.capacity()) rows.reserve(ahead + 1);
    std::fill_n(rows.append(1), rows.width(), std::byte{0});
  }

 private:
  Format old_format_, new_format_;
  TokenBuffer<std::byte> old_, new_;  // settled ones come first
};

/// A row of them.
template <class Scalar>
struct TokenRow {
  const TokenRows<Scalar>& rows;
  Index row;

  template <class Out>
  void read(Index head, Index count, Out* out) const {
    rows.read(row, head, count, out);
  }
};

}  // namespace squat::detail
