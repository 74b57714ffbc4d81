// The unit in which codes are stored: 16 lanes by 8 depths, packed to their bits.
#pragma once

#include <cstring>
#include <squat/config.hpp>
#include <string>
#include <type_traits>

namespace squat::detail {

/// Widths that a tile has. Wider codes of 5 to 7 bits are two tiles (see Planes).
template <int Bits>
inline constexpr bool is_tile_bits = Bits == 1 || is_supported_bits<Bits>;

/// 128 codes of `Bits` bits. Attention sums products over the 8 depths and gives one result for
/// each of the 16 lanes: in a key tile lanes are tokens and depths are channels, in a value tile
/// lanes are channels and depths are tokens.
///
/// Layout. The code at (lane, depth) is number i = 4 (lane mod 8) + depth mod 4 of 32 in quarter
/// s = 2 (depth / 4) + lane / 8 of 4. So a quarter, a byte a code, is 8 lanes of 4 consecutive
/// depths: the operand of an 8-bit dot product into 32-bit lanes. Quarters are stored in bit
/// planes:
///
/// | Bits | plane    | byte of code i in quarter s | its bits                          |
/// |------|----------|-----------------------------|-----------------------------------|
/// | 1    | one      | i mod 16                    | 2 s + i / 16                      |
/// | 2, 3 | low two  | i                           | 2 s and 2 s + 1                   |
/// | 3    | high one | 32 + i mod 16               | 2 s + i / 16                      |
/// | 4    | all four | 32 (s mod 2) + i            | low nibble for s < 2, else high   |
/// | 8    | all      | 32 s + i                    | all                               |
///
/// One load, a shift and a mask per quarter unpack a plane in registers of 128, 256 or 512 bits.
template <int Bits>
struct CodeTile {
  static_assert(is_tile_bits<Bits>, "codes have 1, 2, 3, 4 or 8 bits");

  static constexpr Index lanes = 16;
  static constexpr Index depths = 8;

  std::uint8_t bytes[16 * Bits];

  int get(Index lane, Index depth) const {
    const Index s = quarter(lane, depth), i = position(lane, depth);
    if constexpr (Bits == 8) {
      return bytes[32 * s + i];
    } else if constexpr (Bits == 4) {
      return bytes[32 * (s % 2) + i] >> (4 * (s / 2)) & 15;
    } else if constexpr (Bits == 1) {
      return bytes[i % 16] >> (2 * s + i / 16) & 1;
    } else {
      int code = bytes[i] >> (2 * s) & 3;
      if constexpr (Bits == 3) code |= (bytes[32 + i % 16] >> (2 * s + i / 16) & 1) << 2;
      return code;
    }
  }

  void set(Index lane, Index depth, int code) {
    const Index s = quarter(lane, depth), i = position(lane, depth);
    if constexpr (Bits == 8) {
      bytes[32 * s + i] = static_cast<std::uint8_t>(code);
    } else if constexpr (Bits == 4) {
      put(bytes[32 * (s % 2) + i], 4 * (s / 2), 15, code);
    } else if constexpr (Bits == 1) {
      put(bytes[i % 16], 2 * s + i / 16, 1, code);
    } else {
      put(bytes[i], 2 * s, 3, code & 3);
      if constexpr (Bits == 3) put(bytes[32 + i % 16], 2 * s + i / 16, 1, code >> 2);
    }
  }

  /// Stores codes[depth][lane] as a whole.
  void pack(const std::uint8_t codes[depths][lanes]) {
    for (Index i = 0; i < 32; ++i) {
      const Index lane = i / 4, depth = i % 4;
      const unsigned quarters[4] = {codes[depth][lane], codes[depth][lane + 8],
                                    codes[depth + 4][lane], codes[depth + 4][lane + 8]};
      if constexpr (Bits == 8) {
        for (Index s = 0; s < 4; ++s) bytes[32 * s + i] = static_cast<std::uint8_t>(quarters[s]);
      } else if constexpr (Bits == 4) {
        bytes[i] = static_cast<std::uint8_t>(quarters[0] | quarters[2] << 4);
        bytes[32 + i] = static_cast<std::uint8_t>(quarters[1] | quarters[3] << 4);
      } else if constexpr (Bits == 1) {
        unsigned all = 0;
        for (int s = 0; s < 4; ++s) all |= quarters[s] << (2 * s);
        if (i < 16)
          bytes[i] = static_cast<std::uint8_t>(all);
        else
          bytes[i - 16] = static_cast<std::uint8_t>(bytes[i - 16] | all << 1);
      } else {
        unsigned low = 0, high = 0;
        for (int s = 0; s < 4; ++s) {
          low |= (quarters[s] & 3) << (2 * s);
          high |= (quarters[s] >> 2) << (2 * s);
        }
        bytes[i] = static_cast<std::uint8_t>(low);
        if constexpr (Bits == 3) {
          if (i < 16)
            bytes[32 + i] = static_cast<std::uint8_t>(high);
          else
            bytes[32 + i - 16] = static_cast<std::uint8_t>(bytes[32 + i - 16] | high << 1);
        }
      }
    }
  }

  /// Writes codes[depth][lane], a byte a code.
  void unpack(std::uint8_t codes[depths][lanes]) const {
    std::uint8_t quarters[4][32];
    unpack_quarters(quarters);
    for (Index depth = 0; depth < depths; ++depth)
      for (Index lane = 0; lane < lanes; ++lane)
        codes[depth][lane] = quarters[quarter(lane, depth)][position(lane, depth)];
  }

  /// Writes codes[lane][depth], a byte a code.
  void unpack(std::uint8_t codes[lanes][depths]) const {
    std::uint8_t quarters[4][32];
    unpack_quarters(quarters);
    for (Index lane = 0; lane < lanes; ++lane)
      for (Index half = 0; half < 2; ++half)
        std::memcpy(codes[lane] + 4 * half, quarters[2 * half + lane / 8] + lane % 8 * 4, 4);
  }

 private:
  /// Code i of quarter s, in loops that compilers turn into those of registers.
  void unpack_quarters(std::uint8_t quarters[4][32]) const {
    for (int s = 0; s < 4; ++s) {
      std::uint8_t* const to = quarters[s];
      if constexpr (Bits == 8) {
        std::memcpy(to, bytes + 32 * s, 32);
      } else if constexpr (Bits == 4) {
        const std::uint8_t* const from = bytes + 32 * (s % 2);
        for (Index i = 0; i < 32; ++i) to[i] = from[i] >> (4 * (s / 2)) & 15;
      } else if constexpr (Bits == 1) {
        for (Index i = 0; i < 16; ++i) to[i] = bytes[i] >> (2 * s) & 1;
        for (Index i = 0; i < 16; ++i) to[16 + i] = bytes[i] >> (2 * s + 1) & 1;
      } else {
        for (Index i = 0; i < 32; ++i) to[i] = bytes[i] >> (2 * s) & 3;
        if constexpr (Bits == 3) {
          const std::uint8_t* const high = bytes + 32;
          for (Index i = 0; i < 16; ++i)
            to[i] = static_cast<std::uint8_t>(to[i] | (high[i] >> (2 * s) & 1) << 2);
          for (Index i = 0; i < 16; ++i)
            to[16 + i] = static_cast<std::uint8_t>(to[16 + i] | (high[i] >> (2 * s + 1) & 1) << 2);
        }
      }
    }
  }

  static Index quarter(Index lane, Index depth) { return 2 * (depth / 4) + lane / 8; }
  static Index position(Index lane, Index depth) { return 4 * (lane % 8) + depth % 4; }

  static void put(std::uint8_t& byte, Index shift, unsigned mask, int code) {
    byte =
        static_cast<std::uint8_t>((byte & ~(mask << shift)) | static_cast<unsigned>(code) << shift);
  }
};

static_assert(sizeof(CodeTile<1>) == 16 && sizeof(CodeTile<2>) == 32 && sizeof(CodeTile<3>) == 48 &&
                  sizeof(CodeTile<4>) == 64 && sizeof(CodeTile<8>) == 128,
              "a tile is 128 codes and nothing else");

/// A code of any width as one or two of tile widths: code = sum of part << shift.
struct Planes {
  int count;
  int bits[2];
  int shift[2];

  static constexpr Planes of(int bits) {
    return bits < 5 || bits == 8 ? Planes{1, {bits, 0}, {0, 0}} : Planes{2, {4, bits - 4}, {0, 4}};
  }
};

/// Calls use(std::integral_constant<int, bits>()) for a tile width known when the program runs.
template <class Use>
auto with_bits(int bits, const Use& use) {
  switch (bits) {
    case 1:
      return use(std::integral_constant<int, 1>());
    case 2:
      return use(std::integral_constant<int, 2>());
    case 3:
      return use(std::integral_constant<int, 3>());
    case 4:
      return use(std::integral_constant<int, 4>());
    case 8:
      return use(std::integral_constant<int, 8>());
    default:
      fail("codes of " + std::to_string(bits) + " bits; tiles have 1, 2, 3, 4 or 8");
  }
}

}  // namespace squat::detail
