// Products with packed codes in SSE 4.1.
#pragma once

#include <squat/detail/simd/portable.hpp>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SQUAT_HAVE_SSE4 1

#include <immintrin.h>

// As SQUAT_AVX2.
#define SQUAT_SSE4 __attribute__((target("sse4.1")))
#define SQUAT_SSE4_INLINE __attribute__((target("sse4.1"), always_inline)) inline

namespace squat::detail::simd {

/// Half a row of tiles, 8 lanes, fills two registers of sums a head.
struct Sse4Dot {
  template <int Bits, class Operand, int Heads>
  SQUAT_SSE4 static void dot_heads(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                                   Index out_stride) {
    const std::uint8_t* tile = tiles.tiles;
    const Operand* operands = tiles.operands;
    Index left_in_group = tiles.rows_per_group;
    for (const float* const end = out + 16 * tiles.rows; out != end; out += 16) {
      dot_lanes<0, Bits, Operand, Heads>(tiles, tile, operands, folded, out, out_stride);
      dot_lanes<1, Bits, Operand, Heads>(tiles, tile, operands, folded, out + 8, out_stride);
      tile += tiles.depth_tiles * Index{sizeof(CodeTile<Bits>)};
      if (--left_in_group == 0) {
        left_in_group = tiles.rows_per_group;
        operands += tiles.group_stride;
        folded += max_heads;
      }
    }
  }

 private:
  /// Lanes 8 Half to 8 Half + 7 of a row.
  template <int Half, int Bits, class Operand, int Heads>
  SQUAT_SSE4_INLINE static void dot_lanes(const TileRows<Operand>& tiles, const std::uint8_t* tile,
                                          const Operand* operands, const Folded* folded, float* out,
                                          Index out_stride) {
    __m128i sums[Heads][2];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) sums[h][0] = sums[h][1] = _mm_setzero_si128();
    const Operand* const end = operands + 8 * tiles.depth_tiles;
    for (; operands != end; tile += sizeof(CodeTile<Bits>), operands += 8) {
      __m128i first[2], second[2];  // of both quads
      unpack<Bits, Half>(tile, first);
      unpack<Bits, 2 + Half>(tile, second);
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h)
        add_tile(first, second, operands + h * tiles.operand_stride, sums[h]);
    }
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      SQUAT_UNROLL
      for (int i = 0; i < 2; ++i) {
        float* const target = out + h * out_stride + 4 * i;
        const __m128 base = tiles.add ? _mm_loadu_ps(target) : _mm_set1_ps(folded[h].offset);
        const __m128 product =
            _mm_mul_ps(_mm_set1_ps(folded[h].alpha), _mm_cvtepi32_ps(sums[h][i]));
        _mm_storeu_ps(target, _mm_add_ps(base, product));
      }
    }
  }

  /// Quarter S of a tile, a byte a code (see CodeTile).
  template <int Bits, int S>
  SQUAT_SSE4_INLINE static void unpack(const std::uint8_t* tile, __m128i (&codes)[2]) {
    const __m128i mask = _mm_set1_epi8(static_cast<char>(Bits == 3 ? 3 : (1 << Bits) - 1));
    if constexpr (Bits == 8) {
      codes[0] = load128(tile + 32 * S);
      codes[1] = load128(tile + 32 * S + 16);
    } else if constexpr (Bits == 4) {
      codes[0] = _mm_and_si128(_mm_srli_epi16(load128(tile + 32 * (S % 2)), 4 * (S / 2)), mask);
      codes[1] =
          _mm_and_si128(_mm_srli_epi16(load128(tile + 32 * (S % 2) + 16), 4 * (S / 2)), mask);
    } else if constexpr (Bits == 1) {
      const __m128i plane = load128(tile);
      codes[0] = _mm_and_si128(_mm_srli_epi16(plane, 2 * S), mask);
      codes[1] = _mm_and_si128(_mm_srli_epi16(plane, 2 * S + 1), mask);
    } else {
      codes[0] = _mm_and_si128(_mm_srli_epi16(load128(tile), 2 * S), mask);
      codes[1] = _mm_and_si128(_mm_srli_epi16(load128(tile + 16), 2 * S), mask);
      if constexpr (Bits == 3) {
        const __m128i plane = load128(tile + 32);
        codes[0] = _mm_or_si128(codes[0], bit_two<2 * S>(plane));
        codes[1] = _mm_or_si128(codes[1], bit_two<2 * S + 1>(plane));
      }
    }
  }
  /// Bit `From` of every byte, as bit 2.
  template <int From>
  SQUAT_SSE4_INLINE static __m128i bit_two(__m128i plane) {
    const __m128i moved = From < 2 ? _mm_slli_epi16(plane, From < 2 ? 2 - From : 0)
                                   : _mm_srli_epi16(plane, From < 2 ? 0 : From - 2);
    return _mm_and_si128(moved, _mm_set1_epi8(4));
  }

  /// Adds the products of two quads with their operands. Of 8 bits: in a lane of 16 bits these are
  /// four at most, 4 * 255 * 15.
  template <class Operand>
  SQUAT_SSE4_INLINE static void add_tile(const __m128i (&first)[2], const __m128i (&second)[2],
                                         const Operand* operands, __m128i (&sums)[2]) {
    const __m128i a = broadcast(operands), b = broadcast(operands + 4);
    SQUAT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m128i products =
          std::is_signed_v<Operand>
              ? _mm_add_epi16(_mm_maddubs_epi16(first[i], a), _mm_maddubs_epi16(second[i], b))
              : _mm_add_epi16(_mm_maddubs_epi16(a, first[i]), _mm_maddubs_epi16(b, second[i]));
      sums[i] = _mm_add_epi32(sums[i], _mm_madd_epi16(products, _mm_set1_epi16(1)));
    }
  }
  SQUAT_SSE4_INLINE static void add_tile(const __m128i (&first)[2], const __m128i (&second)[2],
                                         const std::int16_t* operands, __m128i (&sums)[2]) {
    SQUAT_UNROLL
    for (int i = 0; i < 2; ++i) {
      add_pairs(first[i], operands, sums[i]);
      add_pairs(second[i], operands + 4, sums[i]);
    }
  }
  /// Adds the products of a quad with operands of 16 bits, by pairs of depths.
  SQUAT_SSE4_INLINE static void add_pairs(__m128i codes, const std::int16_t* operands,
                                          __m128i& sum) {
    const __m128i low = _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m128i high = _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    sum = _mm_add_epi32(sum, _mm_madd_epi16(_mm_shuffle_epi8(codes, low), broadcast(operands)));
    sum =
        _mm_add_epi32(sum, _mm_madd_epi16(_mm_shuffle_epi8(codes, high), broadcast(operands + 2)));
  }

  SQUAT_SSE4_INLINE static __m128i load128(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  /// Four operands of one byte, or two of two bytes, in every 32-bit lane.
  SQUAT_SSE4_INLINE static __m128i broadcast(const void* operands) {
    std::int32_t bits;
    std::memcpy(&bits, operands, 4);
    return _mm_set1_epi32(bits);
  }
};

}  // namespace squat::detail::simd

#endif
