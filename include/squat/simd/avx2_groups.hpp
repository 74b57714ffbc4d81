// Groups of numbers to codes and scales in AVX2.
#pragma once

#include <squat/simd/avx2_grids.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

/// What EncodeKernels does with groups.
struct Avx2Groups : Avx2Grids {
  SQUAT_AVX2 static void octet(float* x, Index blocks, Index tokens, const float* inner,
                               const GroupFormat& format, const float* expected,
                               Affine<float>* affine, std::uint8_t* codes) {
    const Index stride = blocks * tokens;
    const __m256 levels = _mm256_set1_ps(static_cast<float>((1 << format.bits) - 1));
    alignas(32) float moved[4 * 128];
    for (Index first = 0; first < blocks; first += 4) {
      const Index count = std::min(blocks - first, Index{4});
      for (Index k = 0; k < 8; ++k) {
        float* const own = x + k * stride + first * tokens;
        move(x + first * tokens, stride, k, inner + 8 * k, count * tokens, moved);
        Grids grids;
        find_grids(moved, tokens, count, tokens, format, expected == nullptr ? 0 : expected[k],
                   grids);
        for (Index i = 0; i < count; ++i) {
          affine[8 * (first + i) + k] = {grids.scale[i], grids.zero[i]};
          encode(moved + i * tokens, tokens, grids, i, levels, own + i * tokens,
                 codes + (8 * (first + i) + k) * tokens);
        }
      }
    }
  }

  SQUAT_AVX2 static void groups(const float* x, Index n, Index length, const GroupFormat& format,
                                CodeGrid<float>* grids, std::uint8_t* codes) {
    const __m256 levels = _mm256_set1_ps(static_cast<float>((1 << format.bits) - 1));
    for (Index first = 0; first < n;) {
      // The last group may be shorter than the others, and is then alone.
      const Index numbers = std::min(length, n - first);
      const Index count = std::min((n - first) / numbers, Index{4});
      Grids found;
      find_grids(x + first, length, count, numbers, format, 0, found);
      for (Index group = 0; group < count; ++group, first += numbers) {
        *grids++ = found[group];
        const __m256 shift = _mm256_set1_ps(found.shift[group]);
        const __m256 inverse = _mm256_set1_ps(found.inverse[group]);
        const __m256 origin = _mm256_set1_ps(found.origin[group]);
        for (Index i = first; i < first + numbers; i += 8) {
          const __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x + i), shift);
          store64(codes + i, _mm256_cvtps_epi32(on_grid(y, inverse, origin, levels)));
        }
      }
    }
  }

  SQUAT_AVX2 static void rotate(float* x, Index n) {
    const Index block = n & -n;  // 8 at least
    const __m256 norm = _mm256_set1_ps(1 / std::sqrt(static_cast<float>(block)));
    for (Index i = 0; i < n; i += 8) {
      // Within eight: a + b where the index has no bit of the stride, a - b where it has.
      __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + i), norm);
      y = butterfly(_mm256_permute_ps(y, 0xb1), y, 0xaa);
      y = butterfly(_mm256_permute_ps(y, 0x4e), y, 0xcc);
      y = butterfly(_mm256_permute2f128_ps(y, y, 1), y, 0xf0);
      _mm256_storeu_ps(x + i, y);
    }
    // Two strides at a time, then the one that may be left.
    Index stride = 8;
    for (; 4 * stride <= block; stride *= 4)
      for (Index first = 0; first < n; first += 4 * stride)
        for (Index i = first; i < first + stride; i += 8) {
          const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + stride);
          const __m256 c = _mm256_loadu_ps(x + i + 2 * stride);
          const __m256 d = _mm256_loadu_ps(x + i + 3 * stride);
          const __m256 ab = _mm256_add_ps(a, b), cd = _mm256_add_ps(c, d);
          const __m256 a_b = _mm256_sub_ps(a, b), c_d = _mm256_sub_ps(c, d);
          _mm256_storeu_ps(x + i, _mm256_add_ps(ab, cd));
          _mm256_storeu_ps(x + i + stride, _mm256_add_ps(a_b, c_d));
          _mm256_storeu_ps(x + i + 2 * stride, _mm256_sub_ps(ab, cd));
          _mm256_storeu_ps(x + i + 3 * stride, _mm256_sub_ps(a_b, c_d));
        }
    for (Index first = 0; stride < block && first < n; first += 2 * stride)
      for (Index i = first; i < first + stride; i += 8) {
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + stride);
        _mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
        _mm256_storeu_ps(x + i + stride, _mm256_sub_ps(a, b));
      }
  }

 protected:
  struct Range {
    __m256 scale;
    __m256 zero;
    __m256 inverse;
  };

  /// min_max of affine.hpp, for eight ranges with scales of 16 or 32 bits.
  SQUAT_AVX2_INLINE static Range fit_eight(__m256 low, __m256 high, float levels, int scale_bits) {
    const __m128 limit = _mm_set1_ps(static_cast<float>(largest_storable(scale_bits)));
    Affines halves[2];
    SQUAT_UNROLL
    for (int half = 0; half < 2; ++half)
      halves[half] = stored_range(
          within(half == 0 ? _mm256_castps256_ps128(low) : _mm256_extractf128_ps(low, 1), limit),
          within(half == 0 ? _mm256_castps256_ps128(high) : _mm256_extractf128_ps(high, 1), limit),
          levels, scale_bits, 0);
    const __m256 scale = _mm256_set_m128(halves[1].scale, halves[0].scale);
    const __m256 spread = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ);
    return {scale, _mm256_set_m128(halves[1].zero, halves[0].zero),
            _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(1.0f), scale), spread)};
  }

  SQUAT_AVX2_INLINE static __m256i to_codes(__m256 x, const Range& range, float levels) {
    const __m256 code = _mm256_mul_ps(_mm256_sub_ps(x, range.zero), range.inverse);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), _mm256_set1_ps(levels)));
  }

  SQUAT_AVX2_INLINE static __m256 butterfly(__m256 other, __m256 own, const int negative) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(bits, _mm256_set1_epi32(negative));
    const __m256 minus = _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_srli_epi32(_mm256_cmpeq_epi32(set, bits), 31), 31));
    return _mm256_add_ps(other, _mm256_xor_ps(own, minus));
  }

  /// moved = x of channel k [n], a multiple of 32, and what the errors of those before it add.
  SQUAT_AVX2_INLINE static void move(const float* x, Index stride, Index k, const float* inner,
                                     Index n, float* moved) {
    for (Index t = 0; t < n; t += 32) {
      __m256 y[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) y[v] = _mm256_loadu_ps(x + k * stride + t + 8 * v);
      for (Index i = 0; i < k; ++i) {
        const __m256 factor = _mm256_broadcast_ss(inner + i);
        SQUAT_UNROLL
        for (int v = 0; v < 4; ++v)
          y[v] = add_product(y[v], factor, _mm256_loadu_ps(x + i * stride + t + 8 * v));
      }
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) _mm256_store_ps(moved + t + 8 * v, y[v]);
    }
  }

  /// Codes of moved [n], n a multiple of 32; x [n], which it came from, becomes its error.
  SQUAT_AVX2_INLINE static void encode(const float* moved, Index n, const Grids& grids, Index group,
                                       __m256 levels, float* x, std::uint8_t* codes) {
    const __m256 scale = _mm256_broadcast_ss(&grids.scale[group]);
    const __m256 zero = _mm256_broadcast_ss(&grids.zero[group]);
    const __m256 shift = _mm256_broadcast_ss(&grids.shift[group]);
    const __m256 inverse = _mm256_broadcast_ss(&grids.inverse[group]);
    const __m256 origin = _mm256_broadcast_ss(&grids.origin[group]);
    for (Index t = 0; t < n; t += 32) {
      __m256i code[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) {
        float* const own = x + t + 8 * v;
        const __m256 y = _mm256_sub_ps(_mm256_load_ps(moved + t + 8 * v), shift);
        code[v] = _mm256_cvtps_epi32(on_grid(y, inverse, origin, levels));
        const __m256 stored = add_product(zero, _mm256_cvtepi32_ps(code[v]), scale);
        _mm256_storeu_ps(own, _mm256_sub_ps(stored, _mm256_loadu_ps(own)));
      }
      // Packing works within 128 bits and leaves fours 0, 2, 4, 6, 1, 3, 5, 7.
      const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(code[0], code[1]),
                                                _mm256_packs_epi32(code[2], code[3]));
      store256(codes + t,
               _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
  }

  /// 8 codes, a byte each.
  SQUAT_AVX2_INLINE static void store64(std::uint8_t* target, __m256i x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(words, words));
  }
};

}  // namespace squat::simd

#endif
