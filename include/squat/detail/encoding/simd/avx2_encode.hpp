// Encoding in AVX2.
#pragma once

#include <squat/detail/encoding/simd/avx2_groups.hpp>
#include <squat/detail/encoding/simd/avx2_loops.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

struct Avx2Encode : Avx2Affine {
  template <int Bits>
  SQUAT_AVX2 static void encode_min_max(float* x, Index stride, Index tokens, int scale_bits,
                                        std::byte* scales, std::byte* zeros, std::uint8_t* tile,
                                        Index tile_stride) {
    __m256 low = _mm256_loadu_ps(x), high = low;
    for (Index t = 1; t < tokens; ++t) {
      const __m256 row = _mm256_loadu_ps(x + t * stride);
      low = _mm256_min_ps(low, row);
      high = _mm256_max_ps(high, row);
    }
    const Range range = fit_eight(low, high, static_cast<float>((1 << Bits) - 1), scale_bits);
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
  SQUAT_AVX2 static void pack_channels(const std::uint8_t* codes, int shift, Index tokens,
                                       std::uint8_t* tile, Index tile_stride) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    const __m256i mask = _mm256_set1_epi8(static_cast<char>((1 << Bits) - 1));
    for (Index t = 0; t < tokens; t += 16, codes += 16, tile += tile_stride) {
      __m256i quarters[4];
      SQUAT_UNROLL
      for (int quad = 0; quad < 2; ++quad) {
        const std::uint8_t* row = codes + 4 * quad * tokens;
        const __m128i c0 = load128(row), c1 = load128(row + tokens);
        const __m128i c2 = load128(row + 2 * tokens), c3 = load128(row + 3 * tokens);
        const __m128i low01 = _mm_unpacklo_epi8(c0, c1), low23 = _mm_unpacklo_epi8(c2, c3);
        const __m128i high01 = _mm_unpackhi_epi8(c0, c1), high23 = _mm_unpackhi_epi8(c2, c3);
        quarters[2 * quad] =
            _mm256_set_m128i(_mm_unpackhi_epi16(low01, low23), _mm_unpacklo_epi16(low01, low23));
        quarters[2 * quad + 1] = _mm256_set_m128i(_mm_unpackhi_epi16(high01, high23),
                                                  _mm_unpacklo_epi16(high01, high23));
      }
      SQUAT_UNROLL
      for (__m256i& quarter : quarters)
        quarter = _mm256_and_si256(_mm256_srl_epi16(quarter, count), mask);
      pack<Bits>(quarters[0], quarters[1], quarters[2], quarters[3], tile);
    }
  }

  template <int Bits>
  SQUAT_AVX2 static void store_codes_at_depth_of(const std::uint8_t* codes, Index n,
                                                 std::uint8_t* tile, Index tile_stride,
                                                 Index depth) {
    for (Index c = 0; c < n; c += 16, tile += tile_stride) {
      store_codes_at_depth<Bits>(_mm256_cvtepu8_epi32(load64(codes + c)), 0, depth, tile);
      if (c + 8 < n)
        store_codes_at_depth<Bits>(_mm256_cvtepu8_epi32(load64(codes + c + 8)), 1, depth, tile);
    }
  }

  SQUAT_AVX2 static void store8(const Affine<float>* affine, float max_code, const float* expected,
                                std::byte* scales, std::byte* midpoints) {
    const __m256 first = _mm256_loadu_ps(&affine->scale);
    const __m256 second = _mm256_loadu_ps(&affine[4].scale);
    const __m256 scale = every_second(_mm256_shuffle_ps(first, second, 0x88));
    const __m256 zero = every_second(_mm256_shuffle_ps(first, second, 0xdd));
    const __m256 from = expected == nullptr ? zero : _mm256_sub_ps(zero, _mm256_loadu_ps(expected));
    const __m256 steps =
        _mm256_div_ps(add_product(from, scale, _mm256_set1_ps(max_code / 2)),
                      _mm256_mul_ps(scale, _mm256_set1_ps(max_code / midpoint_steps)));
    store64(reinterpret_cast<std::uint8_t*>(scales), to_bytes(scale));
    const __m256i whole = _mm256_cvtps_epi32(if_positive(scale, steps));
    const __m128i words = narrow16(whole);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(midpoints), _mm_packs_epi16(words, words));
  }

  template <int Bits>
  static constexpr EncodeKernels kernels() {
    using Groups = Avx2Groups<Avx2Loops>;
    return {encode_min_max<Bits>,
            pack_channels<Bits>,
            store_codes_at_depth_of<Bits>,
            Groups::encode_eight_channels,
            store8,
            Groups::groups};
  }

 private:
  struct Range {
    __m256 scale;
    __m256 zero;
    __m256 inverse;
  };

  /// min_max of affine.hpp, for eight ranges with scales of 16 or 32 bits.
  SQUAT_AVX2_INLINE static Range fit_eight(__m256 low, __m256 high, float max_code,
                                           int scale_bits) {
    const __m256 limit = _mm256_set1_ps(static_cast<float>(largest_storable(scale_bits)));
    const Affines affines = stored_range(within(low, limit), within(high, limit), max_code,
                                         scale_bits, _mm256_setzero_ps());
    return {affines.scale, affines.zero, if_positive(affines.scale, inverse(affines.scale))};
  }

  SQUAT_AVX2_INLINE static __m256i to_codes(__m256 x, const Range& range, float max_code) {
    const __m256 code = _mm256_mul_ps(_mm256_sub_ps(x, range.zero), range.inverse);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), _mm256_set1_ps(max_code)));
  }

  /// What a shuffle within 128 bits took from two registers, those of the first one first.
  SQUAT_AVX2_INLINE static __m256 every_second(__m256 shuffled) {
    return _mm256_castsi256_ps(in_order(_mm256_castps_si256(shuffled)));
  }

  SQUAT_AVX2_INLINE static void store(__m256 x, int scale_bits, std::byte* target) {
    if (scale_bits == 16)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(x, 0));
    else
      _mm256_storeu_ps(reinterpret_cast<float*>(target), x);
  }

  /// Codes of eight numbers, which become their errors.
  template <int Bits>
  SQUAT_AVX2_INLINE static __m256i encode(float* x, const Range& range) {
    const __m256 xi = _mm256_loadu_ps(x);
    const __m256i code = to_codes(xi, range, static_cast<float>((1 << Bits) - 1));
    const __m256 stored = add_product(range.zero, _mm256_cvtepi32_ps(code), range.scale);
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
    } else if constexpr (Bits == 1) {
      store_plane(interleave(q0, q1, q2, q3), tile);
    } else {
      if constexpr (Bits == 3) {
        const __m256i one = _mm256_set1_epi8(1);
        store_plane(interleave(_mm256_and_si256(_mm256_srli_epi16(q0, 2), one),
                               _mm256_and_si256(_mm256_srli_epi16(q1, 2), one),
                               _mm256_and_si256(_mm256_srli_epi16(q2, 2), one),
                               _mm256_and_si256(_mm256_srli_epi16(q3, 2), one)),
                    tile + 32);
        const __m256i three = _mm256_set1_epi8(3);
        q0 = _mm256_and_si256(q0, three);
        q1 = _mm256_and_si256(q1, three);
        q2 = _mm256_and_si256(q2, three);
        q3 = _mm256_and_si256(q3, three);
      }
      _mm256_storeu_si256(target, interleave(q0, q1, q2, q3));
    }
  }

  /// A plane of one bit: those of codes 16 to 31 go above those of codes 0 to 15.
  SQUAT_AVX2_INLINE static void store_plane(__m256i bits, std::uint8_t* target) {
    const __m128i upper = _mm256_extracti128_si256(bits, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                     _mm_or_si128(_mm256_castsi256_si128(bits), _mm_add_epi8(upper, upper)));
  }

  /// Two bits of each quarter in every byte.
  SQUAT_AVX2_INLINE static __m256i interleave(__m256i q0, __m256i q1, __m256i q2, __m256i q3) {
    return _mm256_or_si256(_mm256_or_si256(q0, _mm256_slli_epi16(q1, 2)),
                           _mm256_or_si256(_mm256_slli_epi16(q2, 4), _mm256_slli_epi16(q3, 6)));
  }

  /// Sets the codes of lanes 8 half to 8 half + 7 at one depth of a tile. Four depths of a lane
  /// share a 32-bit word.
  template <int Bits>
  SQUAT_AVX2_INLINE static void store_codes_at_depth(__m256i code, int half, Index depth,
                                                     std::uint8_t* tile) {
    const int byte = static_cast<int>(8 * (depth % 4)), quad = static_cast<int>(depth / 4);
    if constexpr (Bits == 8) {
      set_bits(tile + 32 * (2 * quad + half), code, 255, byte);
    } else if constexpr (Bits == 4) {
      set_bits(tile + 32 * half, code, 15, byte + 4 * quad);
    } else {
      const int shift = byte + 2 * (2 * quad + half);
      if constexpr (Bits > 1)
        set_bits(tile, _mm256_and_si256(code, _mm256_set1_epi32(3)), 3, shift);
      if constexpr (Bits != 2) {
        const __m256i high = Bits == 1 ? code : _mm256_srli_epi32(code, 2);
        // Lanes 4 to 7 have the bit above that of lanes 0 to 3.
        const __m128i bits = _mm_or_si128(_mm256_castsi256_si128(high),
                                          _mm_slli_epi32(_mm256_extracti128_si256(high, 1), 1));
        __m128i* plane = reinterpret_cast<__m128i*>(tile + (Bits == 1 ? 0 : 32));
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
};

}  // namespace squat::detail::simd

#endif
