// Products with packed codes in AVX2.
#pragma once

#include <squat/detail/simd/avx2_registers.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

struct Avx2Dot : Avx2Registers {
  template <int Bits, class Operand, int Heads>
  SQUAT_AVX2 static void dot_heads(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                                   Index out_stride) {
    if (tiles.add)
      dot_rows<true, Bits, Operand, Heads>(tiles, folded, out, out_stride);
    else
      dot_rows<false, Bits, Operand, Heads>(tiles, folded, out, out_stride);
  }

 private:
  /// A tile of at most 4 bits as it is loaded: codes of quarter s are bits of the bytes of
  /// fields[s % count].
  template <int Bits>
  struct Tile {
    static constexpr int count = Bits < 3 ? 1 : 2;
    __m256i fields[count];
  };

  template <int Bits>
  SQUAT_AVX2_INLINE static Tile<Bits> load_tile(const std::uint8_t* tile) {
    if constexpr (Bits == 1) {
      return {{spread_plane(tile)}};
    } else if constexpr (Bits == 2) {
      return {{load256(tile)}};
    } else if constexpr (Bits == 4) {
      return {{load256(tile), load256(tile + 32)}};
    } else {
      const __m256i low = load256(tile), high = spread_plane(tile + 32);
      const __m256i lows = _mm256_set1_epi8(0x33), highs = _mm256_set1_epi8(0x44);
      return {{_mm256_or_si256(_mm256_and_si256(low, lows),
                               _mm256_and_si256(_mm256_slli_epi16(high, 2), highs)),
               _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 2), lows),
                               _mm256_and_si256(high, highs))}};
    }
  }

  /// The codes of quarters 2 Quad and 2 Quad + 1, a byte a code (see CodeTile).
  template <int Bits, int Quad>
  SQUAT_AVX2_INLINE static void unpack(const Tile<Bits>& tile, __m256i (&codes)[2]) {
    const __m256i mask = _mm256_set1_epi8((1 << Bits) - 1);
    constexpr int last = Tile<Bits>::count - 1;
    constexpr int shift = last == 0 ? 2 : 0;
    codes[0] = _mm256_and_si256(_mm256_srli_epi16(tile.fields[0], 4 * Quad), mask);
    codes[1] = _mm256_and_si256(_mm256_srli_epi16(tile.fields[last], 4 * Quad + shift), mask);
  }

  /// A plane of one bit: those of codes 16 to 31 are one above those of codes 0 to 15.
  SQUAT_AVX2_INLINE static __m256i spread_plane(const std::uint8_t* plane) {
    return _mm256_srlv_epi32(_mm256_broadcastsi128_si256(load128(plane)),
                             _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
  }

  /// Four operands of one byte, or two of two bytes, in every 32-bit lane.
  SQUAT_AVX2_INLINE static __m256i broadcast(const void* operands) {
    std::int32_t bits;
    std::memcpy(&bits, operands, 4);
    return _mm256_set1_epi32(bits);
  }

  template <bool Add, int Bits, class Operand, int Heads>
  SQUAT_AVX2_INLINE static void dot_rows(const TileRows<Operand>& tiles, const Folded* folded,
                                         float* out, Index out_stride) {
    constexpr Index run = longest_run<Bits, Operand>, tile_bytes = Index{sizeof(CodeTile<Bits>)};
    const std::uint8_t* tile = tiles.tiles;
    const Operand* operands = tiles.operands;
    const Index count = tiles.depth_tiles, stride = tiles.operand_stride;
    Index left_in_group = tiles.rows_per_group;
    for (const float* const end = out + 16 * tiles.rows; out != end; out += 16) {
      dot_row<Add, Bits, Operand, Heads>(tile, std::min(run, count), operands, stride, folded, out,
                                         out_stride);
      for (Index done = run; done < count; done += run)
        dot_row<true, Bits, Operand, Heads>(tile + done * tile_bytes, std::min(run, count - done),
                                            operands + 8 * done, stride, folded, out, out_stride);
      tile += count * tile_bytes;
      if (--left_in_group == 0) {
        left_in_group = tiles.rows_per_group;
        operands += tiles.group_stride;
        folded += max_heads;
      }
    }
  }

  // Products with 8-bit operands are summed in 16 bits, to which a tile adds at most 4 (2^Bits - 1)
  // 127 or, where no operand is negative and sums begin at the other end, 255.
  template <class Operand>
  static constexpr int sum_begin = std::is_same_v<Operand, std::uint8_t> ? -32768 : 0;
  template <int Bits, class Operand>
  static constexpr Index longest_run = sizeof(Operand) == 2
                                           ? max_length
                                           : (32767 - sum_begin<Operand>) /
                                                 (4 * std::numeric_limits<Operand>::max() *
                                                  ((1 << Bits) - 1));

  /// One row of at most longest_run tiles. A function of its own, because g++ gives the sums
  /// registers only where nothing else wants them.
  template <bool Add, int Bits, class Operand, int Heads>
  __attribute__((noinline)) SQUAT_AVX2 static void dot_row(const std::uint8_t* tile, Index count,
                                                           const Operand* operands, Index stride,
                                                           const Folded* folded, float* out,
                                                           Index out_stride) {
    __m256i sums[Heads][2];  // for eight lanes and eight more
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) sums[h][0] = sums[h][1] = _mm256_set1_epi16(sum_begin<Operand>);
    const Operand* const end = operands + 8 * count;
    for (; operands != end; tile += sizeof(CodeTile<Bits>), operands += 8) {
      __m256i codes[2];
      if constexpr (Bits == 8) {
        SQUAT_UNROLL
        for (int quad = 0; quad < 2; ++quad) {
          codes[0] = load256(tile + 64 * quad);
          codes[1] = load256(tile + 64 * quad + 32);
          add_quad<Heads>(codes, operands + 4 * quad, stride, sums);
        }
      } else {
        Tile<Bits> loaded = load_tile<Bits>(tile);
        unpack<Bits, 0>(loaded, codes);
        add_quad<Heads>(codes, operands, stride, sums);
        // The empty statements keep an order of work for which there are registers: g++ would
        // unpack all first, and spill sums.
        SQUAT_UNROLL
        for (__m256i& field : loaded.fields) __asm__ volatile("" : "+x"(field));
        unpack<Bits, 1>(loaded, codes);
        add_quad<Heads>(codes, operands + 4, stride, sums);
      }
    }
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const __m256 alpha = _mm256_set1_ps(folded[h].alpha);
      SQUAT_UNROLL
      for (int half = 0; half < 2; ++half) {
        __m256i sum = sums[h][half];
        if constexpr (sizeof(Operand) == 1) sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
        if constexpr (sum_begin<Operand> != 0)
          sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(2 * sum_begin<Operand>));
        float* target = out + h * out_stride + 8 * half;
        const __m256 base = Add ? _mm256_loadu_ps(target) : _mm256_set1_ps(folded[h].offset);
        _mm256_storeu_ps(target, _mm256_fmadd_ps(alpha, _mm256_cvtepi32_ps(sum), base));
      }
    }
  }

  /// Adds products with 8-bit operands: 16-bit sums, for pairs of depths.
  template <int Heads, class Operand>
  SQUAT_AVX2_INLINE static void add_quad(const __m256i (&codes)[2], const Operand* operands,
                                         Index stride, __m256i (&sums)[Heads][2]) {
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const __m256i operand = broadcast(operands + h * stride);
      SQUAT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const __m256i is_unsigned = std::is_signed_v<Operand> ? codes[half] : operand;
        const __m256i is_signed = std::is_signed_v<Operand> ? operand : codes[half];
        // From intrinsics g++ makes sums that wander through all registers and into memory.
        __m256i products;
        __asm__ volatile(
            "vpmaddubsw %[is_signed], %[is_unsigned], %[products]\n\t"
            "vpaddw %[products], %[sum], %[sum]"
            : [sum] "+x"(sums[h][half]), [products] "=&x"(products)
            : [is_unsigned] "x"(is_unsigned), [is_signed] "x"(is_signed));
      }
    }
  }
  /// Adds products with 16-bit operands: 32-bit sums.
  template <int Heads>
  SQUAT_AVX2_INLINE static void add_quad(const __m256i (&codes)[2], const std::int16_t* operands,
                                         Index stride, __m256i (&sums)[Heads][2]) {
    SQUAT_UNROLL
    for (int odd = 0; odd < 2; ++odd) {
      __m256i depths[2];
      SQUAT_UNROLL
      for (int half = 0; half < 2; ++half)
        depths[half] = odd ? _mm256_srli_epi16(codes[half], 8)
                           : _mm256_and_si256(codes[half], _mm256_set1_epi16(0xff));
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        const __m256i operand = broadcast(operands + h * stride + 2 * odd);
        SQUAT_UNROLL
        for (int half = 0; half < 2; ++half) {
          sums[h][half] = _mm256_add_epi32(sums[h][half], _mm256_madd_epi16(depths[half], operand));
          __asm__ volatile("" : "+x"(sums[h][half]));
        }
      }
    }
  }
};

}  // namespace squat::detail::simd

#endif
