// Encoding in AVX2.
#pragma once

#include <squat/simd/avx2.hpp>
#include <squat/simd/encode_kernels.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

struct Avx2Encode {
  template <int Bits>
  SQUAT_AVX2 static void keys(float* x, Index stride, Index tokens, int scale_bits,
                              std::byte* scales, std::byte* zeros, std::uint8_t* tile,
                              Index tile_stride) {
    __m256 low = _mm256_loadu_ps(x), high = low;
    for (Index t = 1; t < tokens; ++t) {
      const __m256 row = _mm256_loadu_ps(x + t * stride);
      low = _mm256_min_ps(low, row);
      high = _mm256_max_ps(high, row);
    }
    const Range range = fit<Bits>(low, high, scale_bits);
    store(range.scale, scale_bits, scales);
    store(range.zero, scale_bits, zeros);
    for (Index t = 0; t < tokens; t += 16, tile += tile_stride) {
      // [four tokens, channels 0-3 | the same tokens, channels 4-7], a byte a code.
      __m256i fours[4];
      SQUAT_UNROLL
      for (int i = 0; i < 4; ++i) {
        float* row = x + (t + 4 * i) * stride;
        const __m256i first =
            _mm256_packs_epi32(encode<Bits>(row, range), encode<Bits>(row + stride, range));
        const __m256i second = _mm256_packs_epi32(encode<Bits>(row + 2 * stride, range),
                                                  encode<Bits>(row + 3 * stride, range));
        fours[i] = _mm256_packus_epi16(first, second);
      }
      pack<Bits>(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                 _mm256_permute2x128_si256(fours[2], fours[3], 0x20),
                 _mm256_permute2x128_si256(fours[0], fours[1], 0x31),
                 _mm256_permute2x128_si256(fours[2], fours[3], 0x31), tile);
    }
  }

  template <int Bits>
  SQUAT_AVX2 static void channel(float* x, Index tokens, int scale_bits, std::byte* scale,
                                 std::byte* zero, std::uint8_t* codes) {
    const Range range = fit_row<Bits>(x, tokens, scale_bits, scale, zero);
    for (Index t = 0; t < tokens; t += 32, x += 32, codes += 32) {
      const __m256i first = _mm256_packs_epi32(encode<Bits>(x, range), encode<Bits>(x + 8, range));
      const __m256i second =
          _mm256_packs_epi32(encode<Bits>(x + 16, range), encode<Bits>(x + 24, range));
      // Packing works within 128-bit halves; this puts the eight groups of four back in order.
      const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes),
                          _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order));
    }
  }

  template <int Bits>
  SQUAT_AVX2 static void pack_channels(const std::uint8_t* codes, Index tokens, std::uint8_t* tile,
                                       Index tile_stride) {
    for (Index t = 0; t < tokens; t += 16, codes += 16, tile += tile_stride) {
      __m256i quarters[4];
      SQUAT_UNROLL
      for (int quad = 0; quad < 2; ++quad) {
        const std::uint8_t* row = codes + 4 * quad * tokens;
        const __m128i c0 = load(row), c1 = load(row + tokens);
        const __m128i c2 = load(row + 2 * tokens), c3 = load(row + 3 * tokens);
        const __m128i low01 = _mm_unpacklo_epi8(c0, c1), low23 = _mm_unpacklo_epi8(c2, c3);
        const __m128i high01 = _mm_unpackhi_epi8(c0, c1), high23 = _mm_unpackhi_epi8(c2, c3);
        quarters[2 * quad] =
            _mm256_set_m128i(_mm_unpackhi_epi16(low01, low23), _mm_unpacklo_epi16(low01, low23));
        quarters[2 * quad + 1] = _mm256_set_m128i(_mm_unpackhi_epi16(high01, high23),
                                                  _mm_unpacklo_epi16(high01, high23));
      }
      pack<Bits>(quarters[0], quarters[1], quarters[2], quarters[3], tile);
    }
  }

  template <int Bits>
  SQUAT_AVX2 static void value(const float* x, Index n, int scale_bits, std::byte* scale,
                               std::byte* zero, std::uint8_t* tile, Index tile_stride,
                               Index depth) {
    const Range range = fit_row<Bits>(x, n, scale_bits, scale, zero);
    for (Index c = 0; c < n; c += 16, tile += tile_stride) {
      put<Bits>(codes<Bits>(_mm256_loadu_ps(x + c), range), 0, depth, tile);
      if (c + 8 < n) put<Bits>(codes<Bits>(_mm256_loadu_ps(x + c + 8), range), 1, depth, tile);
    }
  }

  SQUAT_AVX2 static void add_products(const float* a, Index a_stride, const float* b,
                                      Index b_stride, float* out, Index out_stride, Index rows,
                                      Index n, Index columns) {
    for (Index column = 0; column < columns; column += 16) {
      const bool wide = column + 8 < columns;
      for (Index row = 0; row < rows; row += 4) {
        if (wide)
          add_products_block<2>(a + row * a_stride, a_stride, b + column, b_stride,
                                out + row * out_stride + column, out_stride, n);
        else
          add_products_block<1>(a + row * a_stride, a_stride, b + column, b_stride,
                                out + row * out_stride + column, out_stride, n);
      }
    }
  }

  template <int Bits>
  static constexpr EncodeKernels<Bits> kernels() {
    return {keys<Bits>, channel<Bits>, pack_channels<Bits>, value<Bits>, add_products};
  }

 private:
  struct Range {
    __m256 scale;
    __m256 zero;
    __m256 inverse;
  };

  SQUAT_AVX2_INLINE static __m256 as_stored(__m256 x, int scale_bits) {
    return scale_bits == 16 ? _mm256_cvtph_ps(_mm256_cvtps_ph(x, 0)) : x;
  }

  /// min_max of affine.hpp, for eight ranges.
  template <int Bits>
  SQUAT_AVX2_INLINE static Range fit(__m256 low, __m256 high, int scale_bits) {
    const __m256 limit = _mm256_set1_ps(static_cast<float>(largest_storable(scale_bits)));
    const __m256 minus_limit = _mm256_sub_ps(_mm256_setzero_ps(), limit);
    low = _mm256_min_ps(_mm256_max_ps(low, minus_limit), limit);
    high = _mm256_min_ps(_mm256_max_ps(high, minus_limit), limit);
    Range range;
    range.zero = as_stored(low, scale_bits);
    const __m256 levels = _mm256_set1_ps(static_cast<float>((1 << Bits) - 1));
    const __m256 scale = as_stored(
        _mm256_max_ps(_mm256_div_ps(_mm256_sub_ps(high, range.zero), levels), _mm256_setzero_ps()),
        scale_bits);
    const __m256 spread =
        _mm256_cmp_ps(scale, _mm256_set1_ps(std::numeric_limits<float>::min()), _CMP_GE_OQ);
    range.scale = _mm256_and_ps(scale, spread);
    range.inverse = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(1.0f), scale), spread);
    return range;
  }

  /// The range of x[0..n), stored.
  template <int Bits>
  SQUAT_AVX2_INLINE static Range fit_row(const float* x, Index n, int scale_bits, std::byte* scale,
                                         std::byte* zero) {
    __m256 low = _mm256_loadu_ps(x), high = low;
    for (Index c = 8; c < n; c += 8) {
      low = _mm256_min_ps(low, _mm256_loadu_ps(x + c));
      high = _mm256_max_ps(high, _mm256_loadu_ps(x + c));
    }
    const Range range = fit<Bits>(horizontal<true>(low), horizontal<false>(high), scale_bits);
    if (scale_bits == 16) {
      const int both = _mm_cvtsi128_si32(_mm_cvtps_ph(
          _mm_unpacklo_ps(_mm256_castps256_ps128(range.scale), _mm256_castps256_ps128(range.zero)),
          0));
      std::memcpy(scale, &both, 2);
      std::memcpy(zero, reinterpret_cast<const char*>(&both) + 2, 2);
    } else {
      store_affine(_mm256_cvtss_f32(range.scale), scale_bits, scale);
      store_affine(_mm256_cvtss_f32(range.zero), scale_bits, zero);
    }
    return range;
  }

  SQUAT_AVX2_INLINE static __m128i load(const std::uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }

  SQUAT_AVX2_INLINE static void store(__m256 x, int scale_bits, std::byte* target) {
    if (scale_bits == 16)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(x, 0));
    else
      _mm256_storeu_ps(reinterpret_cast<float*>(target), x);
  }

  template <int Bits>
  SQUAT_AVX2_INLINE static __m256i codes(__m256 x, const Range& range) {
    const __m256 levels = _mm256_set1_ps(static_cast<float>((1 << Bits) - 1));
    const __m256 code = _mm256_mul_ps(_mm256_sub_ps(x, range.zero), range.inverse);
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), levels));
  }

  /// Codes of eight numbers, which become their errors.
  template <int Bits>
  SQUAT_AVX2_INLINE static __m256i encode(float* x, const Range& range) {
    const __m256 xi = _mm256_loadu_ps(x);
    const __m256i code = codes<Bits>(xi, range);
    // Not a fused multiply-add: the portable version has none.
    __m256 stored = _mm256_mul_ps(_mm256_cvtepi32_ps(code), range.scale);
    __asm__("" : "+x"(stored));
    stored = _mm256_add_ps(stored, range.zero);
    _mm256_storeu_ps(x, _mm256_sub_ps(stored, xi));
    return code;
  }

  /// A tile from its quarters (see CodeTile).
  template <int Bits>
  SQUAT_AVX2_INLINE static void pack(__m256i q0, __m256i q1, __m256i q2, __m256i q3,
                                     std::uint8_t* tile) {
    __m256i* target = reinterpret_cast<__m256i*>(tile);
    if constexpr (Bits == 8) {
      _mm256_storeu_si256(target, q0);
      _mm256_storeu_si256(target + 1, q1);
      _mm256_storeu_si256(target + 2, q2);
      _mm256_storeu_si256(target + 3, q3);
    } else if constexpr (Bits == 4) {
      _mm256_storeu_si256(target, _mm256_or_si256(q0, _mm256_slli_epi16(q2, 4)));
      _mm256_storeu_si256(target + 1, _mm256_or_si256(q1, _mm256_slli_epi16(q3, 4)));
    } else {
      if constexpr (Bits == 3) {
        const __m256i one = _mm256_set1_epi8(1);
        const __m256i high = interleave(_mm256_and_si256(_mm256_srli_epi16(q0, 2), one),
                                        _mm256_and_si256(_mm256_srli_epi16(q1, 2), one),
                                        _mm256_and_si256(_mm256_srli_epi16(q2, 2), one),
                                        _mm256_and_si256(_mm256_srli_epi16(q3, 2), one));
        const __m128i upper = _mm256_extracti128_si256(high, 1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(tile + 32),
                         _mm_or_si128(_mm256_castsi256_si128(high), _mm_add_epi8(upper, upper)));
        const __m256i three = _mm256_set1_epi8(3);
        q0 = _mm256_and_si256(q0, three);
        q1 = _mm256_and_si256(q1, three);
        q2 = _mm256_and_si256(q2, three);
        q3 = _mm256_and_si256(q3, three);
      }
      _mm256_storeu_si256(target, interleave(q0, q1, q2, q3));
    }
  }

  /// Two bits of each quarter in every byte.
  SQUAT_AVX2_INLINE static __m256i interleave(__m256i q0, __m256i q1, __m256i q2, __m256i q3) {
    return _mm256_or_si256(_mm256_or_si256(q0, _mm256_slli_epi16(q1, 2)),
                           _mm256_or_si256(_mm256_slli_epi16(q2, 4), _mm256_slli_epi16(q3, 6)));
  }

  /// Sets the codes of lanes 8 half to 8 half + 7 at one depth of a tile. Four depths of a lane
  /// share a 32-bit word.
  template <int Bits>
  SQUAT_AVX2_INLINE static void put(__m256i code, int half, Index depth, std::uint8_t* tile) {
    const int byte = static_cast<int>(8 * (depth % 4)), quad = static_cast<int>(depth / 4);
    if constexpr (Bits == 8) {
      set_bits(tile + 32 * (2 * quad + half), code, 255, byte);
    } else if constexpr (Bits == 4) {
      set_bits(tile + 32 * half, code, 15, byte + 4 * quad);
    } else {
      const int shift = byte + 2 * (2 * quad + half);
      set_bits(tile, _mm256_and_si256(code, _mm256_set1_epi32(3)), 3, shift);
      if constexpr (Bits == 3) {
        const __m256i high = _mm256_srli_epi32(code, 2);
        // Lanes 4 to 7 have the bit above that of lanes 0 to 3.
        const __m128i bits = _mm_or_si128(_mm256_castsi256_si128(high),
                                          _mm_slli_epi32(_mm256_extracti128_si256(high, 1), 1));
        __m128i* plane = reinterpret_cast<__m128i*>(tile + 32);
        const __m128i count = _mm_cvtsi32_si128(shift);
        const __m128i mask = _mm_sll_epi32(_mm_set1_epi32(3), count);
        _mm_storeu_si128(plane, _mm_or_si128(_mm_andnot_si128(mask, _mm_loadu_si128(plane)),
                                             _mm_sll_epi32(bits, count)));
      }
    }
  }

  SQUAT_AVX2_INLINE static void set_bits(std::uint8_t* words, __m256i bits, int mask, int shift) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    const __m256i cleared =
        _mm256_andnot_si256(_mm256_sll_epi32(_mm256_set1_epi32(mask), count),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words),
                        _mm256_or_si256(cleared, _mm256_sll_epi32(bits, count)));
  }

  /// Minimum or maximum of all eight, in every lane.
  template <bool Min>
  SQUAT_AVX2_INLINE static __m256 horizontal(__m256 x) {
    x = better<Min>(x, _mm256_permute2f128_ps(x, x, 1));
    x = better<Min>(x, _mm256_shuffle_ps(x, x, 0x4e));
    return better<Min>(x, _mm256_shuffle_ps(x, x, 0xb1));
  }

  template <bool Min>
  SQUAT_AVX2_INLINE static __m256 better(__m256 a, __m256 b) {
    return Min ? _mm256_min_ps(a, b) : _mm256_max_ps(a, b);
  }

  /// Four rows by 8 * Vectors columns.
  template <int Vectors>
  SQUAT_AVX2_INLINE static void add_products_block(const float* a, Index a_stride, const float* b,
                                                   Index b_stride, float* out, Index out_stride,
                                                   Index n) {
    __m256 sum[4][Vectors];
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        sum[row][v] = _mm256_loadu_ps(out + row * out_stride + 8 * v);
    }
    for (Index i = 0; i < n; ++i, b += b_stride) {
      SQUAT_UNROLL
      for (int row = 0; row < 4; ++row) {
        const __m256 factor = _mm256_broadcast_ss(a + row * a_stride + i);
        SQUAT_UNROLL
        for (int v = 0; v < Vectors; ++v)
          sum[row][v] = _mm256_fmadd_ps(factor, _mm256_loadu_ps(b + 8 * v), sum[row][v]);
      }
    }
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        _mm256_storeu_ps(out + row * out_stride + 8 * v, sum[row][v]);
    }
  }
};

}  // namespace squat::simd

#endif
