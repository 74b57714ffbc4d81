// Products with packed codes in AVX-512 with VNNI.
#pragma once

#include <squat/detail/simd/avx512_registers.hpp>

#if defined(SQUAT_HAVE_AVX512)

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::detail::simd {

/// A row of tiles fills one register of sums a head: lanes of the tile are lanes of the register,
/// and one instruction adds the products of a quad, four consecutive depths, to all of them.
///
/// Operands of 16 bits are two of 8, 256 high + low with -128 <= low < 128, and so at most 32639.
/// They are stored by quads: the four low ones, then the four high ones.
struct Avx512Dot : Avx512Registers {
  static constexpr float largest_operand = 127 * 256 + 127;

  template <int Bits, class Operand, int Heads>
  SQUAT_AVX512 static void dot_heads(const TileRows<Operand>& tiles, const Folded* folded,
                                     float* out, Index out_stride) {
    // Two rows at once share what is read of the operands. For more there would be no registers.
    constexpr int together = Heads * int{sizeof(Operand)} <= 4 ? 2 : 1;
    const Index row_bytes = tiles.depth_tiles * Index{sizeof(CodeTile<Bits>)};
    const std::uint8_t* tile = tiles.tiles;
    const Operand* operands = tiles.operands;
    for (Index left = tiles.rows; left > 0; left -= tiles.rows_per_group) {
      Index rows = left < tiles.rows_per_group ? left : tiles.rows_per_group;
      for (; rows >= together; rows -= together) {
        dot_rows<Bits, Operand, Heads, together>(tiles.add, tile, row_bytes, tiles.depth_tiles,
                                                 operands, tiles.operand_stride, folded, out,
                                                 out_stride);
        tile += together * row_bytes;
        out += together * 16;
      }
      if (rows > 0) {
        dot_rows<Bits, Operand, Heads, 1>(tiles.add, tile, row_bytes, tiles.depth_tiles, operands,
                                          tiles.operand_stride, folded, out, out_stride);
        tile += row_bytes;
        out += 16;
      }
      operands += tiles.group_stride;
      folded += max_heads;
    }
  }

 private:
  template <int Bits, class Operand, int Heads, int Rows>
  SQUAT_AVX512_INLINE static void dot_rows(bool add, const std::uint8_t* tile, Index row_bytes,
                                           Index count, const Operand* operands, Index stride,
                                           const Folded* folded, float* out, Index out_stride) {
    constexpr int parts = sizeof(Operand);  // low and high
    // Both quads go to one sum where there are enough of them to hide the latency of a product.
    constexpr int chains = Rows * Heads * parts < 6 ? 2 : 1;
    __m512i sums[Rows][Heads][parts][chains];
    SQUAT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        SQUAT_UNROLL
        for (int i = 0; i < parts * chains; ++i)
          sums[r][h][i / chains][i % chains] = _mm512_setzero_si512();
      }
    }
    for (; count > 0; --count, tile += sizeof(CodeTile<Bits>), operands += 8) {
      __m512i codes[Rows][2];
      SQUAT_UNROLL
      for (int r = 0; r < Rows; ++r) unpack<Bits>(tile + r * row_bytes, codes[r]);
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        SQUAT_UNROLL
        for (int i = 0; i < 2 * parts; ++i) {
          const __m512i operand = broadcast(operands + h * stride, i);
          const int quad = i / parts;
          SQUAT_UNROLL
          for (int r = 0; r < Rows; ++r) {
            __m512i& sum = sums[r][h][i % parts][quad % chains];
            if constexpr (std::is_signed_v<Operand>)
              add_products(sum, codes[r][quad], operand);
            else
              add_products(sum, operand, codes[r][quad]);
          }
        }
      }
    }
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const __m512 alpha = _mm512_set1_ps(folded[h].alpha);
      SQUAT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        float* target = out + h * out_stride + 16 * r;
        __m512 sum = join<chains>(sums[r][h][0]);
        if constexpr (parts == 2)
          sum = _mm512_fmadd_ps(join<chains>(sums[r][h][1]), _mm512_set1_ps(256), sum);
        const __m512 base = add ? _mm512_loadu_ps(target) : _mm512_set1_ps(folded[h].offset);
        _mm512_storeu_ps(target, _mm512_fmadd_ps(alpha, sum, base));
      }
    }
  }

  /// The two quads of a tile, a byte a code (see CodeTile).
  template <int Bits>
  SQUAT_AVX512_INLINE static void unpack(const std::uint8_t* tile, __m512i quads[2]) {
    if constexpr (Bits == 8) {
      quads[0] = _mm512_loadu_si512(tile);
      quads[1] = _mm512_loadu_si512(tile + 64);
    } else {
      __m512i codes;
      if constexpr (Bits == 4) {
        codes = _mm512_loadu_si512(tile);
      } else if constexpr (Bits == 1) {
        codes = _mm512_srlv_epi32(
            _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tile))),
            _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
      } else {
        codes = _mm512_srlv_epi32(
            _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile))),
            _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2));
        if constexpr (Bits == 3) {
          // Rotated, the high bits of both quads are where they belong.
          const __m512i high = _mm512_rorv_epi32(
              _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + 32))),
              _mm512_setr_epi32(30, 30, 30, 30, 31, 31, 31, 31, 0, 0, 0, 0, 1, 1, 1, 1));
          constexpr int select = 0xca;  // the first says where to take the second, else the third
          codes = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x33333333), codes, high, select);
        }
      }
      constexpr unsigned mask = ((1u << Bits) - 1) * 0x01010101u;
      const __m512i lowest = _mm512_set1_epi32(static_cast<int>(mask));
      quads[0] = _mm512_and_si512(codes, lowest);
      quads[1] = _mm512_and_si512(_mm512_srli_epi16(codes, 4), lowest);
    }
  }

  template <int Chains>
  SQUAT_AVX512_INLINE static __m512 join(const __m512i sums[Chains]) {
    if constexpr (Chains == 2) return _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1]));
    return _mm512_cvtepi32_ps(sums[0]);
  }

  /// Operands 4 index to 4 index + 3, a byte each, in every 32-bit lane.
  SQUAT_AVX512_INLINE static __m512i broadcast(const void* operands, int index) {
    std::int32_t bits;
    std::memcpy(&bits, static_cast<const std::int8_t*>(operands) + 4 * index, 4);
    return _mm512_set1_epi32(bits);
  }
};

}  // namespace squat::detail::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
