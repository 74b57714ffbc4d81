// Products with packed codes in AVX2.
#pragma once

#include <squat/simd/avx2_registers.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

struct Avx2Dot : Avx2Registers {
  template <int Bits, class Operand>
  SQUAT_AVX2 static void dot(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                             Index out_stride) {
    switch (tiles.heads) {
      case 1:
        return dot_heads<Bits, Operand, 1>(tiles, folded, out, out_stride);
      case 2:
        return dot_heads<Bits, Operand, 2>(tiles, folded, out, out_stride);
      case 3:
        return dot_heads<Bits, Operand, 3>(tiles, folded, out, out_stride);
      default:
        return dot_heads<Bits, Operand, 4>(tiles, folded, out, out_stride);
    }
  }

  template <int Bits>
  static constexpr DotKernels dot_kernels() {
    if constexpr (Bits <= 4)
      return {dot<Bits, std::int8_t>, dot<Bits, std::int16_t>};
    else
      return {nullptr, dot<Bits, std::int16_t>};
  }

 private:
  /// The four quarters of a tile, a byte a code (see CodeTile).
  template <int Bits>
  SQUAT_AVX2_INLINE static void unpack(const std::uint8_t* tile, __m256i quarters[4]) {
    if constexpr (Bits == 8) {
      SQUAT_UNROLL
      for (int s = 0; s < 4; ++s) quarters[s] = load256(tile + 32 * s);
    } else if constexpr (Bits == 4) {
      const __m256i nibble = _mm256_set1_epi8(15);
      SQUAT_UNROLL
      for (int s = 0; s < 2; ++s) {
        const __m256i plane = load256(tile + 32 * s);
        quarters[s] = _mm256_and_si256(plane, nibble);
        quarters[s + 2] = _mm256_and_si256(_mm256_srli_epi16(plane, 4), nibble);
      }
    } else if constexpr (Bits == 1) {
      const __m256i one = _mm256_set1_epi8(1);
      const __m256i bits = spread_plane(tile);
      quarters[0] = _mm256_and_si256(bits, one);
      quarters[1] = _mm256_and_si256(_mm256_srli_epi16(bits, 2), one);
      quarters[2] = _mm256_and_si256(_mm256_srli_epi16(bits, 4), one);
      quarters[3] = _mm256_and_si256(_mm256_srli_epi16(bits, 6), one);
    } else {
      const __m256i three = _mm256_set1_epi8(3);
      const __m256i low = load256(tile);
      quarters[0] = _mm256_and_si256(low, three);
      quarters[1] = _mm256_and_si256(_mm256_srli_epi16(low, 2), three);
      quarters[2] = _mm256_and_si256(_mm256_srli_epi16(low, 4), three);
      quarters[3] = _mm256_and_si256(_mm256_srli_epi16(low, 6), three);
      if constexpr (Bits == 3) {
        const __m256i high = spread_plane(tile + 32);
        const __m256i four = _mm256_set1_epi8(4);
        quarters[0] =
            _mm256_or_si256(quarters[0], _mm256_and_si256(_mm256_slli_epi16(high, 2), four));
        quarters[1] = _mm256_or_si256(quarters[1], _mm256_and_si256(high, four));
        quarters[2] =
            _mm256_or_si256(quarters[2], _mm256_and_si256(_mm256_srli_epi16(high, 2), four));
        quarters[3] =
            _mm256_or_si256(quarters[3], _mm256_and_si256(_mm256_srli_epi16(high, 4), four));
      }
    }
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

  template <int Bits, class Operand, int Heads>
  SQUAT_AVX2 static void dot_heads(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                                   Index out_stride) {
    constexpr Index tile_bytes = Index{sizeof(CodeTile<Bits>)};
    const std::uint8_t* tile = tiles.tiles;
    const Operand* operands = tiles.operands;
    const Index count = tiles.depth_tiles, stride = tiles.operand_stride;
    Index left_in_group = tiles.rows_per_group;
    for (Index row = 0; row < tiles.rows; ++row, out += 16, tile += count * tile_bytes) {
      Sums<Heads> sums;
      if constexpr (sizeof(Operand) == 1)
        sums = sum_tiles8<Bits, Heads>(tile, count, operands, stride);
      else
        sums = sum_tiles16<Bits, Heads>(tile, count, operands, stride);
      if (tiles.add)
        store_sums<true, Heads>(sums, folded, out, out_stride);
      else
        store_sums<false, Heads>(sums, folded, out, out_stride);
      if (--left_in_group == 0) {
        left_in_group = tiles.rows_per_group;
        operands += tiles.group_stride;
        folded += max_heads;
      }
    }
  }

  /// Sums of products for eight lanes and eight more, a head.
  template <int Heads>
  struct Sums {
    __m256 of[Heads][2];
  };

  template <bool Add, int Heads>
  SQUAT_AVX2_INLINE static void store_sums(const Sums<Heads>& sums, const Folded* folded,
                                           float* out, Index out_stride) {
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const __m256 alpha = _mm256_set1_ps(folded[h].alpha);
      SQUAT_UNROLL
      for (int half = 0; half < 2; ++half) {
        float* target = out + h * out_stride + 8 * half;
        const __m256 base = Add ? _mm256_loadu_ps(target) : _mm256_set1_ps(folded[h].offset);
        _mm256_storeu_ps(target, _mm256_fmadd_ps(alpha, sums.of[h][half], base));
      }
    }
  }

  template <int Bits, int Heads>
  SQUAT_AVX2_INLINE static Sums<Heads> sum_tiles8(const std::uint8_t* tile, Index count,
                                                  const std::int8_t* operands, Index stride) {
    // A tile adds at most 4 (2^Bits - 1) 127 to a 16-bit sum.
    static_assert(Bits <= 4, "8-bit operands are for codes of at most 4 bits");
    constexpr Index run = 32767 / (4 * 127 * ((1 << Bits) - 1));
    Sums<Heads> sums;
    for (Index begin = 0; begin < count; begin += run) {
      __m256i words[Heads][2];
      sum_words<Bits, Heads>(tile + begin * Index{sizeof(CodeTile<Bits>)},
                             std::min(run, count - begin), operands + 8 * begin, stride, words);
      const __m256i one = _mm256_set1_epi16(1);
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        SQUAT_UNROLL
        for (int half = 0; half < 2; ++half) {
          const __m256 sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(words[h][half], one));
          sums.of[h][half] = begin == 0 ? sum : _mm256_add_ps(sums.of[h][half], sum);
        }
      }
    }
    return sums;
  }

  /// The innermost loop: 16-bit sums of products with 8-bit operands, for pairs of depths. A
  /// function of its own, because g++ gives the sums registers only when nothing else wants them.
  template <int Bits, int Heads>
  __attribute__((noinline)) SQUAT_AVX2 static void sum_words(const std::uint8_t* tile, Index count,
                                                             const std::int8_t* operands,
                                                             Index stride,
                                                             __m256i result[Heads][2]) {
    __m256i words[Heads][2];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) words[h][0] = words[h][1] = _mm256_setzero_si256();
    const std::int8_t* const end = operands + 8 * count;
    for (; operands != end; tile += sizeof(CodeTile<Bits>), operands += 8) {
      SQUAT_UNROLL
      for (int quad = 0; quad < 2; ++quad) {
        // The empty statements keep an order of work for which there are registers: the compiler
        // would unpack all first, add products to each other first, and spill the sums.
        const std::uint8_t* here = tile;
        __asm__ volatile("" : "+r"(here));
        __m256i quarters[4];
        unpack<Bits>(here, quarters);
        SQUAT_UNROLL
        for (int h = 0; h < Heads; ++h) {
          const __m256i operand = broadcast(operands + h * stride + 4 * quad);
          SQUAT_UNROLL
          for (int half = 0; half < 2; ++half) {
            words[h][half] = _mm256_add_epi16(
                words[h][half], _mm256_maddubs_epi16(quarters[2 * quad + half], operand));
            __asm__ volatile("" : "+x"(words[h][half]));
          }
        }
      }
    }
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      result[h][0] = words[h][0];
      result[h][1] = words[h][1];
    }
  }

  template <int Bits, int Heads>
  SQUAT_AVX2_INLINE static Sums<Heads> sum_tiles16(const std::uint8_t* tile, Index count,
                                                   const std::int16_t* operands, Index stride) {
    __m256i totals[Heads][2];
    sum_pairs<Bits, Heads>(tile, count, operands, stride, totals);
    Sums<Heads> sums;
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      sums.of[h][0] = _mm256_cvtepi32_ps(totals[h][0]);
      sums.of[h][1] = _mm256_cvtepi32_ps(totals[h][1]);
    }
    return sums;
  }

  /// sum_words for 16-bit operands, with 32-bit sums.
  template <int Bits, int Heads>
  __attribute__((noinline)) SQUAT_AVX2 static void sum_pairs(const std::uint8_t* tile, Index count,
                                                             const std::int16_t* operands,
                                                             Index stride,
                                                             __m256i result[Heads][2]) {
    __m256i totals[Heads][2];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) totals[h][0] = totals[h][1] = _mm256_setzero_si256();
    const __m256i even = _mm256_set1_epi16(0xff);
    const std::int16_t* const end = operands + 8 * count;
    for (; operands != end; tile += sizeof(CodeTile<Bits>), operands += 8) {
      SQUAT_UNROLL
      for (int quad = 0; quad < 2; ++quad) {
        const std::uint8_t* here = tile;
        __asm__ volatile("" : "+r"(here));
        __m256i quarters[4];
        unpack<Bits>(here, quarters);
        SQUAT_UNROLL
        for (int odd = 0; odd < 2; ++odd) {
          __m256i depths[2];
          SQUAT_UNROLL
          for (int half = 0; half < 2; ++half)
            depths[half] = odd ? _mm256_srli_epi16(quarters[2 * quad + half], 8)
                               : _mm256_and_si256(quarters[2 * quad + half], even);
          SQUAT_UNROLL
          for (int h = 0; h < Heads; ++h) {
            const __m256i operand = broadcast(operands + h * stride + 4 * quad + 2 * odd);
            SQUAT_UNROLL
            for (int half = 0; half < 2; ++half) {
              totals[h][half] =
                  _mm256_add_epi32(totals[h][half], _mm256_madd_epi16(depths[half], operand));
              __asm__ volatile("" : "+x"(totals[h][half]));
            }
          }
        }
      }
    }
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      result[h][0] = totals[h][0];
      result[h][1] = totals[h][1];
    }
  }
};

}  // namespace squat::simd

#endif
