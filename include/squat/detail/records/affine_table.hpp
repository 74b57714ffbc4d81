// Where a record keeps scales and zero points.
#pragma once

#include <cstring>
#include <squat/detail/records/affine.hpp>

namespace squat::detail {

/// A table of scales and zero points inside a record: all scales, then all zeros. With 32 or 16
/// bits they are numbers in single or half precision. With 8 bits a scale is what scale_from_byte()
/// takes and a zero is a signed byte m that says where the midpoint of the range lies:
///
///     zero + max_code / 2 * scale = expected + m / 32 * max_code * scale
///
/// A table without zeros stands for ranges around 0.
class AffineTable {
 public:
  AffineTable(Index entries, int scale_bits, bool has_zeros)
      : entries_(entries), scale_bits_(scale_bits), has_zeros_(has_zeros) {}

  Index entries() const { return entries_; }
  int scale_bits() const { return scale_bits_; }
  bool has_zeros() const { return has_zeros_; }
  Index bytes() const { return (has_zeros_ ? 2 : 1) * entries_ * (scale_bits_ / 8); }

  const std::byte* scale(const std::byte* table, Index entry) const {
    return table + entry * (scale_bits_ / 8);
  }
  const std::byte* zero(const std::byte* table, Index entry) const {
    return scale(table, entries_ + entry);
  }
  std::byte* scale(std::byte* table, Index entry) const {
    return table + entry * (scale_bits_ / 8);
  }
  std::byte* zero(std::byte* table, Index entry) const { return scale(table, entries_ + entry); }

  /// `max_code` is the largest code, `expected` where the midpoint of the range was expected.
  template <class Real>
  Affine<Real> get(const std::byte* table, Index entry, Real max_code, Real expected) const {
    Affine<Real> affine;
    affine.scale = scale_bits_ == 8 ? static_cast<Real>(scale_from_byte(byte(table, entry)))
                                    : load<Real>(table, entry);
    if (!has_zeros_) {
      affine.zero = affine.scale * (max_code / -2);
    } else if (scale_bits_ == 8) {
      const int midpoint = static_cast<std::int8_t>(byte(table, entries_ + entry));
      affine.zero = affine.scale == 0 ? expected
                                      : expected +
                                            static_cast<Real>(midpoint) *
                                                (affine.scale * (max_code / midpoint_steps)) -
                                            affine.scale * (max_code / 2);
    } else {
      affine.zero = load<Real>(table, entries_ + entry);
    }
    return affine;
  }

  /// Whether all is finite and no scale negative, as set() leaves it.
  bool is_valid(const std::byte* table) const {
    if (scale_bits_ == 16) return are_valid<Eigen::half>(table);
    if (scale_bits_ == 32) return are_valid<float>(table);
    return std::all_of(table, table + entries_, [](std::byte scale) {
      return std::to_integer<int>(scale) <= largest_scale_byte;
    });
  }

  /// `affine` must hold values as stored_range() gives them, so that nothing is lost here.
  template <class Real>
  void set(std::byte* table, Index entry, const Affine<Real>& affine, Real max_code,
           Real expected) const {
    if (scale_bits_ == 8) {
      std::byte none;
      store_affine8(affine, max_code, expected, scale(table, entry),
                    has_zeros_ ? zero(table, entry) : &none);
      return;
    }
    store_affine(static_cast<float>(affine.scale), scale_bits_, scale(table, entry));
    if (has_zeros_) store_affine(static_cast<float>(affine.zero), scale_bits_, zero(table, entry));
  }

 private:
  static std::uint8_t byte(const std::byte* table, Index at) {
    return std::to_integer<std::uint8_t>(table[at]);
  }

  /// Scales and zeros that are stored as `Stored`.
  template <class Stored>
  bool are_valid(const std::byte* table) const {
    for (Index i = 0; i < (has_zeros_ ? 2 : 1) * entries_; ++i) {
      Stored number;
      std::memcpy(&number, table + i * Index{sizeof number}, sizeof number);
      if (!are_within(&number, 1, static_cast<double>(largest_stored(scale_bits_)))) return false;
      if (i < entries_ && number < Stored(0)) return false;
    }
    return true;
  }

  template <class Real>
  Real load(const std::byte* table, Index at) const {
    if (scale_bits_ == 16) {
      Eigen::half value;
      std::memcpy(&value, table + 2 * at, 2);
      return static_cast<Real>(static_cast<float>(value));
    }
    float value;
    std::memcpy(&value, table + 4 * at, 4);
    return static_cast<Real>(value);
  }

  Index entries_;
  int scale_bits_;
  bool has_zeros_;
};

/// Records begin on this boundary, and so do the tiles in them.
inline constexpr Index record_alignment = 32;

}  // namespace squat::detail
