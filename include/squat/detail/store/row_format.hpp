// How the numbers of a token that is not packed lie in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <squat/matrix.hpp>

namespace squat::detail {

/// Numbers [heads, width] as they are, or rounded to integers of 8 or 16 bits. Of these, 32 numbers
/// of a head share a scale of 16 bits, a float without its lower half, and scales follow codes.
/// Both are the same on every machine.
template <class Scalar>
class RowFormat {
 public:
  static constexpr Index group = 32;

  /// `bits` is 8, 16 or, for numbers as they are, 0; width is a multiple of 8.
  RowFormat(Index heads, Index width, int bits) : heads_(heads), width_(width), bits_(bits) {}

  Index heads() const { return heads_; }
  Index width() const { return width_; }
  int bits() const { return bits_; }
  Index numbers() const { return heads_ * width_; }
  Index code_size() const { return bits_ == 0 ? Index{sizeof(Scalar)} : Index{bits_ / 8}; }
  Index scales() const { return bits_ == 0 ? 0 : heads_ * groups(); }
  Index bytes() const { return numbers() * code_size() + scales() * Index{sizeof(std::uint16_t)}; }

  std::uint16_t* scales_of(std::byte* row) const {
    return reinterpret_cast<std::uint16_t*>(row + numbers() * code_size());
  }
  const std::uint16_t* scales_of(const std::byte* row) const {
    return reinterpret_cast<const std::uint16_t*>(row + numbers() * code_size());
  }

  /// The codes of a head, integers of bits() or numbers as they are, and their scales.
  template <class Code>
  const Code* codes_of(const std::byte* row, Index head) const {
    return reinterpret_cast<const Code*>(row) + head * width_;
  }
  const std::uint16_t* scales_of(const std::byte* row, Index head) const {
    return scales_of(row) + head * groups();
  }

  void encode(const Scalar* numbers, std::byte* row) const noexcept {
    if (bits_ == 8)
      round<std::int8_t>(numbers, row);
    else if (bits_ == 16)
      round<std::int16_t>(numbers, row);
    else if (bytes() > 0)  // values that keys hold have no numbers of their own
      std::memcpy(row, numbers, static_cast<std::size_t>(bytes()));
  }

  /// The first `count` numbers of a head, a multiple of 8.
  template <class Out>
  void decode(const std::byte* row, Index head, Index count, Out* out) const {
    if (bits_ == 8) return widen(codes_of<std::int8_t>(row, head), row, head, count, out);
    if (bits_ == 16) return widen(codes_of<std::int16_t>(row, head), row, head, count, out);
    const auto* numbers = codes_of<Scalar>(row, head);
    for (Index c = 0; c < count; ++c) out[c] = static_cast<Out>(numbers[c]);
  }

  /// The largest magnitude among the numbers of a head, or up to a hundredth more.
  float largest(const std::byte* row, Index head) const {
    if (bits_ == 8) return largest_by_scale<std::int8_t>(row, head);
    if (bits_ == 16) return largest_by_scale<std::int16_t>(row, head);
    const Scalar* const numbers = codes_of<Scalar>(row, head);
    float lanes[8] = {};
    for (Index c = 0; c < width_; c += 8)
      for (Index lane = 0; lane < 8; ++lane) {
        const float size = std::abs(static_cast<float>(numbers[c + lane]));
        lanes[lane] = lanes[lane] < size ? size : lanes[lane];
      }
    return *std::max_element(lanes, lanes + 8);
  }

  /// Whether no head of a row of 16 bits would be ruined by 8.
  bool can_shorten(const std::byte* row) const noexcept {
    std::int8_t codes[group];
    std::uint16_t scale;
    for (Index head = 0; head < heads_; ++head)
      for (Index g = 0; g < groups(); ++g) {
        const Index count = shorten_group(row, head, g, codes, scale);
        if (is_ruined(row, head, g, codes, count)) return false;
      }
    return true;
  }
  /// Rounds a row of 16 bits to 8.
  static void shorten(const RowFormat& from, const std::byte* row, const RowFormat& to,
                      std::byte* out) noexcept {
    for (Index head = 0; head < to.heads_; ++head)
      for (Index g = 0; g < to.groups(); ++g)
        from.shorten_group(row, head, g, to.codes_of<std::int8_t>(out, head) + g * group,
                           to.scales_of(out)[head * to.groups() + g]);
  }
  /// The numbers of a head that decode() gives for a row of 16 bits that was rounded to 8, or as
  /// they are where that would ruin them.
  template <class Out>
  void decode_shortened(const std::byte* row, Index head, Out* out) const {
    for (Index g = 0; g < groups(); ++g) {
      std::int8_t codes[group];
      std::uint16_t scale;
      const Index count = shorten_group(row, head, g, codes, scale);
      if (is_ruined(row, head, g, codes, count)) return decode(row, head, width_, out);
      for (Index c = 0; c < count; ++c)
        out[g * group + c] = static_cast<Out>(static_cast<float>(codes[c]) * number(scale));
    }
  }

 private:
  Index groups() const { return (width_ + group - 1) / group; }  // of a head

  template <class Code>
  Code* codes_of(std::byte* row, Index head) const {
    return reinterpret_cast<Code*>(row) + head * width_;
  }
  template <class Code>
  void round(const Scalar* numbers, std::byte* row) const noexcept {
    std::uint16_t* scale = scales_of(row);
    for (Index head = 0; head < heads_; ++head, numbers += width_)
      for (Index first = 0; first < width_; first += group)
        round_group(numbers + first, std::min(group, width_ - first),
                    codes_of<Code>(row, head) + first, *scale++);
  }

  template <class Number, class Code>
  static void round_group(const Number* numbers, Index count, Code* codes,
                          std::uint16_t& scale) noexcept {
    constexpr int most = std::numeric_limits<Code>::max();
    float largest = 0;
    for (Index c = 0; c < count; ++c)
      largest = std::max(largest, std::abs(static_cast<float>(numbers[c])));
    scale = upper_half(largest / most);
    // Products of single precision are exact here: no compiler can round them otherwise.
    const double inverse = static_cast<double>(1 / number(scale));
    for (Index c = 0; c < count; ++c)
      codes[c] = static_cast<Code>(
          static_cast<int>(static_cast<double>(static_cast<float>(numbers[c])) * inverse +
                           (most + 1.5)) -
          most - 1);
  }

  template <class Code>
  float largest_by_scale(const std::byte* row, Index head) const {
    float scale = 0;
    for (Index g = 0; g < groups(); ++g)
      scale = std::max(scale, number(scales_of(row)[head * groups() + g]));
    const Code* const codes = codes_of<Code>(row, head);
    // No scale that was rounded is smaller, that of zeros neither.
    if (!(scale > std::numeric_limits<float>::min()) &&
        std::all_of(codes, codes + width_, [](Code code) { return code == 0; }))
      return 0;
    return scale * std::numeric_limits<Code>::max();
  }

  /// Returns how many numbers the group has.
  Index shorten_group(const std::byte* row, Index head, Index g, std::int8_t* codes,
                      std::uint16_t& scale) const noexcept {
    float numbers[group];
    const Index count = std::min(group, width_ - g * group);
    const float old_scale = number(scales_of(row)[head * groups() + g]);
    const std::int16_t* const old_codes = codes_of<std::int16_t>(row, head) + g * group;
    for (Index c = 0; c < count; ++c) numbers[c] = static_cast<float>(old_codes[c]) * old_scale;
    round_group(numbers, count, codes, scale);
    return count;
  }

  /// Whether most of a group's numbers that are not zero become at most two steps of 8 bits: a few
  /// are some fifty times as large as the others, as with a large bias of a projection.
  bool is_ruined(const std::byte* row, Index head, Index g, const std::int8_t* codes,
                 Index count) const noexcept {
    const std::int16_t* const from = codes_of<std::int16_t>(row, head) + g * group;
    Index numbers = 0, little = 0;
    for (Index c = 0; c < count; ++c) {
      numbers += from[c] != 0;
      little += from[c] != 0 && codes[c] >= -2 && codes[c] <= 2;
    }
    return 2 * little > numbers;
  }

  template <class Code, class Out>
  void widen(const Code* codes, const std::byte* row, Index head, Index count, Out* out) const {
    const std::uint16_t* const scales = scales_of(row, head);
    // Loops of eight become vectors without being asked.
    for (Index first = 0; first < count; first += 8) {
      const float scale = number(scales[first / group]);
      for (Index c = first; c < first + 8; ++c)
        out[c] = static_cast<Out>(static_cast<float>(codes[c]) * scale);
    }
  }

  /// Of a scale, a normal number, rounded up.
  static std::uint16_t upper_half(float scale) {
    const float normal = std::max(scale, std::numeric_limits<float>::min());
    return static_cast<std::uint16_t>((Eigen::numext::bit_cast<std::uint32_t>(normal) + 0xFFFF) >>
                                      16);
  }
  static float number(std::uint16_t upper_half) {
    return Eigen::numext::bit_cast<float>(std::uint32_t{upper_half} << 16);
  }

  Index heads_;
  Index width_;
  int bits_;
};

}  // namespace squat::detail
