// Folding scales into operands in AVX2.
#pragma once

#include <cstddef>
#include <squat/detail/simd/avx2_registers.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

/// Four rows are folded at once, so that what is summed up across a register is summed up for all
/// of them together. Where fewer are given, the missing ones stand for the first.
struct Avx2Fold : Avx2Registers {
  /// 16-bit fixed point, zero up to a multiple of 32. A unit of 0 marks zeros.
  SQUAT_AVX2 static float to_fixed_point(const float* x, Index n, std::int16_t* fixed) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 top = _mm256_setzero_ps();
    Index i = 0;
    for (; i + 32 <= n; i += 32) {
      SQUAT_UNROLL
      for (int k = 0; k < 32; k += 8)
        top = _mm256_max_ps(top, _mm256_and_ps(_mm256_loadu_ps(x + i + k), magnitude));
    }
    for (; i < n; i += 8)
      top = _mm256_max_ps(top, _mm256_and_ps(_mm256_loadu_ps(x + i), magnitude));
    const float max = horizontal_max(top);
    const __m256 inverse = _mm256_set1_ps(32767.0f / std::max(max, 1e-30f));
    i = 0;
    for (; i + 32 <= n; i += 32) {
      SQUAT_UNROLL
      for (int k = 0; k < 32; k += 16)
        store256(fixed + i + k, in_order(narrow16(round(_mm256_loadu_ps(x + i + k), inverse),
                                                  round(_mm256_loadu_ps(x + i + k + 8), inverse))));
    }
    for (; i + 16 <= n; i += 16)
      store256(fixed + i, in_order(narrow16(round(_mm256_loadu_ps(x + i), inverse),
                                            round(_mm256_loadu_ps(x + i + 8), inverse))));
    if (i < n) {
      store256(fixed + i,
               in_order(narrow16(round(_mm256_loadu_ps(x + i), inverse), _mm256_setzero_si256())));
      i += 16;
    }
    if (i % 32 != 0) store256(fixed + i, _mm256_setzero_si256());
    return max * (1 / 32767.0f);
  }

  /// Products, their maxima and the operands are found 16 at a time in fixed point; only what
  /// `offset` needs of x is floating point.
  SQUAT_AVX2 static bool try_fold8(const float* x, Index x_stride, const std::int16_t* fixed,
                                   const float* units, Index count, const float* scale,
                                   const float* midpoint, Index n, float centre, float crest,
                                   float largest_alpha, std::int8_t* operands, Folded* folded) {
    alignas(32) std::int16_t fixed_scale[max_length];
    alignas(32) std::int16_t products[max_heads][max_length];
    alignas(16) float row_units[max_heads];
    const float* rows[max_heads];
    const std::int16_t* fixed_rows[max_heads];
    __m256i top[max_heads], sums[max_heads], squares[max_heads];
    SQUAT_UNROLL
    for (int row = 0; row < max_heads; ++row) {
      rows[row] = row < count ? x + row * x_stride : x;
      fixed_rows[row] = row < count ? fixed + row * max_length : fixed;
      row_units[row] = units[row < count ? row : 0];
      top[row] = _mm256_setzero_si256();
    }
    const float scale_unit = to_fixed_point(scale, n, fixed_scale);
    for (Index i = 0; i < n; i += 32) {
      const __m256i first = load256(fixed_scale + i), second = load256(fixed_scale + i + 16);
      SQUAT_UNROLL
      for (int row = 0; row < max_heads; ++row) {
        const __m256i a = _mm256_mulhrs_epi16(first, load256(fixed_rows[row] + i));
        const __m256i b = _mm256_mulhrs_epi16(second, load256(fixed_rows[row] + i + 16));
        store256(products[row] + i, a);
        store256(products[row] + i + 16, b);
        top[row] =
            _mm256_max_epi16(top[row], _mm256_max_epi16(_mm256_abs_epi16(a), _mm256_abs_epi16(b)));
      }
    }
    const __m128i words = reduce<MaxWords>(top);
    const __m128i max =
        _mm_and_si128(_mm_max_epi16(words, _mm_srli_epi32(words, 16)), _mm_set1_epi32(0xffff));
    const __m128 unit = _mm_mul_ps(_mm_load_ps(row_units), _mm_set1_ps(scale_unit));
    // Below 1024 the products are too coarse to be rounded again; zeros only are fine.
    const __m128 coarse = _mm_and_ps(_mm_castsi128_ps(_mm_cmplt_epi32(max, _mm_set1_epi32(1024))),
                                     _mm_cmpgt_ps(unit, _mm_setzero_ps()));
    if (_mm_movemask_ps(coarse) != 0) return false;
    const __m128i factor = _mm_cvttps_epi32(_mm_div_ps(
        _mm_set1_ps(127 << 15), _mm_cvtepi32_ps(_mm_max_epi32(max, _mm_set1_epi32(128)))));
    const __m256i factors = _mm256_broadcastsi128_si256(factor);
    __m256i one = _mm256_set1_epi16(1), ones = _mm256_set1_epi8(1);
    keep(one);
    keep(ones);
    SQUAT_UNROLL
    for (int row = 0; row < max_heads; ++row) {
      const __m256i f = _mm256_shuffle_epi8(
          factors, _mm256_set1_epi16(static_cast<std::int16_t>(4 * row | (4 * row + 1) << 8)));
      __m256i sum = _mm256_setzero_si256(), square = sum;
      for (Index i = 0; i < n; i += 32) {
        const __m256i bytes =
            in_order(_mm256_packs_epi16(_mm256_mulhrs_epi16(load256(products[row] + i), f),
                                        _mm256_mulhrs_epi16(load256(products[row] + i + 16), f)));
        store256(operands + row * max_length + i, bytes);
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(ones, bytes));
        const __m256i sizes = _mm256_abs_epi8(bytes);
        square =
            _mm256_add_epi32(square, _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, sizes), one));
        keep(sum);
        keep(square);
      }
      sums[row] = _mm256_madd_epi16(sum, one);
      squares[row] = square;
    }
    // products are in units of 2^15 units; an operand is one of them times factor / 2^15.
    const __m128 alpha =
        _mm_div_ps(_mm_mul_ps(unit, _mm_set1_ps(32768.0f * 32768.0f)), _mm_cvtepi32_ps(factor));
    store_folded(alpha, dot4(rows, midpoint, n), reduce<AddIntegers>(sums), centre, folded);
    const __m128 energy = _mm_cvtepi32_ps(reduce<AddIntegers>(squares));
    const __m128 least = _mm_set1_ps(127.0f * 127.0f * static_cast<float>(n) / (crest * crest));
    const __m128 too_coarse =
        _mm_or_ps(_mm_and_ps(_mm_cmplt_ps(energy, least), _mm_cmpgt_ps(energy, _mm_setzero_ps())),
                  _mm_cmpgt_ps(alpha, _mm_set1_ps(largest_alpha)));
    return _mm_movemask_ps(too_coarse) == 0;
  }

  SQUAT_AVX2 static bool try_fold8_positive(const float* x, Index x_stride, Index count,
                                            const float* scale, const float* midpoint, Index groups,
                                            Index n, float centre, std::int32_t least,
                                            std::uint8_t* operands, Folded* folded) {
    const float* rows[max_heads];
    SQUAT_UNROLL
    for (int row = 0; row < max_heads; ++row) rows[row] = row < count ? x + row * x_stride : x;
    switch (n / 32) {
      case 1:
        return fold_chunks<1>(rows, scale, midpoint, groups, centre, least, operands, folded);
      case 2:
        return fold_chunks<2>(rows, scale, midpoint, groups, centre, least, operands, folded);
      default:
        return fold_chunks<4>(rows, scale, midpoint, groups, centre, least, operands, folded);
    }
  }

  /// Operands of four depths are stored as 0, 2, 1, 3: the pairs that dot16 multiplies at once.
  SQUAT_AVX2 static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                                const float* midpoint, Index n, float centre, float largest,
                                std::int16_t* operands, Folded* folded) {
    const __m128i pairs = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (; count > 0; --count, x += x_stride, operands += max_length, ++folded) {
      const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
      __m256 top = _mm256_setzero_ps(), offset = top;
      for (Index i = 0; i < n; i += 8) {
        const __m256 xi = _mm256_loadu_ps(x + i);
        const __m256 wi = _mm256_mul_ps(xi, _mm256_loadu_ps(scale + i));
        top = _mm256_max_ps(top, _mm256_and_ps(wi, magnitude));
        offset = _mm256_fmadd_ps(xi, _mm256_loadu_ps(midpoint + i), offset);
      }
      const float max = horizontal_max(top);
      const __m256 inverse = _mm256_set1_ps(largest / std::max(max, 1e-30f));
      __m256i sum = _mm256_setzero_si256();
      for (Index i = 0; i < n; i += 8) {
        const __m256i rounded =
            round(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(scale + i)), inverse);
        sum = _mm256_add_epi32(sum, rounded);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(operands + i),
                         _mm_shuffle_epi8(narrow16(rounded), pairs));
      }
      const float alpha = max / largest;
      *folded = {alpha,
                 horizontal_sum(offset) - centre * alpha * horizontal_sum(_mm256_cvtepi32_ps(sum))};
    }
  }

 private:
  template <int Chunks>
  SQUAT_AVX2_INLINE static __m256 max(const float* x) {
    __m256 top = _mm256_loadu_ps(x);
    SQUAT_UNROLL
    for (int i = 1; i < 4 * Chunks; ++i) top = _mm256_max_ps(top, _mm256_loadu_ps(x + 8 * i));
    return top;
  }

  template <int Chunks>
  SQUAT_AVX2_INLINE static void fix_chunks(const float* x, float factor, __m256i* fixed) {
    const __m256 f = _mm256_set1_ps(factor);
    SQUAT_UNROLL
    for (int i = 0; i < 2 * Chunks; ++i)
      fixed[i] = narrow16(round(_mm256_loadu_ps(x + 16 * i), f),
                          round(_mm256_loadu_ps(x + 16 * i + 8), f));
  }

  /// to / x where x is no zero.
  SQUAT_AVX2_INLINE static __m128 divide(float to, __m128 x) {
    return _mm_div_ps(_mm_set1_ps(to), _mm_max_ps(x, _mm_set1_ps(1e-30f)));
  }

  /// try_fold8_positive for 32 * Chunks depths.
  template <int Chunks>
  SQUAT_AVX2 static bool fold_chunks(const float* const (&rows)[max_heads], const float* scale,
                                     const float* midpoint, Index groups, float centre,
                                     std::int32_t least, std::uint8_t* operands, Folded* folded) {
    constexpr Index n = 32 * Chunks;
    // Relative to the largest of a row or a group: of x at most 32767, of scales 255 * 128.
    __m256i fixed[max_heads][2 * Chunks], fixed_scale[2 * Chunks];
    alignas(16) float factors[max_heads], highest_scales[4];
    __m256 top[4];
    SQUAT_UNROLL
    for (int row = 0; row < max_heads; ++row) top[row] = max<Chunks>(rows[row]);
    const __m128 highest_x = reduce<MaxFloats>(top);
    _mm_store_ps(factors, divide(32767, highest_x));
    SQUAT_UNROLL
    for (int row = 0; row < max_heads; ++row)
      fix_chunks<Chunks>(rows[row], factors[row], fixed[row]);
    const __m256i zero = _mm256_setzero_si256();
    const __m256i by_128 = _mm256_set1_epi16(1 << 8);  // mulhrs with this divides by 128
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int is_coarse = 0;
    for (Index group = 0; group < groups; ++group) {
      if (group % 4 == 0) {
        SQUAT_UNROLL
        for (int g = 0; g < 4; ++g)
          top[g] = max<Chunks>(scale + std::min(group + g, groups - 1) * n);
        const __m128 highest_scale = reduce<MaxFloats>(top);
        _mm_store_ps(highest_scales, highest_scale);
        _mm_store_ps(factors, divide(255 * 128, highest_scale));
      }
      fix_chunks<Chunks>(scale + group * n, factors[group % 4], fixed_scale);
      __m256i sums[max_heads], squares[max_heads];
      SQUAT_UNROLL
      for (int row = 0; row < max_heads; ++row) {
        sums[row] = squares[row] = zero;
        SQUAT_UNROLL
        for (int i = 0; i < Chunks; ++i) {
          __m256i words[2];
          SQUAT_UNROLL
          for (int k = 0; k < 2; ++k) {
            words[k] = _mm256_mulhrs_epi16(
                _mm256_mulhrs_epi16(fixed_scale[2 * i + k], fixed[row][2 * i + k]), by_128);
            squares[row] = _mm256_add_epi32(squares[row], _mm256_madd_epi16(words[k], words[k]));
          }
          const __m256i bytes =
              _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words[0], words[1]), order);
          store256(operands + (group * max_heads + row) * max_block + 32 * i, bytes);
          sums[row] = _mm256_add_epi64(sums[row], _mm256_sad_epu8(bytes, zero));
        }
      }
      const __m128 alpha =
          _mm_mul_ps(highest_x, _mm_set1_ps(highest_scales[group % 4] * (1 / 255.0f)));
      store_folded(alpha, dot4(rows, midpoint + group * n, n), reduce<AddIntegers>(sums), centre,
                   folded + group * max_heads);
      const __m128i few = _mm_cmpgt_epi32(_mm_set1_epi32(least), reduce<AddIntegers>(squares));
      is_coarse |=
          _mm_movemask_ps(_mm_and_ps(_mm_castsi128_ps(few), _mm_cmpgt_ps(alpha, _mm_setzero_ps())));
    }
    return is_coarse == 0;
  }

  /// x[row] . midpoint, for four rows.
  SQUAT_AVX2_INLINE static __m128 dot4(const float* const x[4], const float* midpoint, Index n) {
    __m256 sum[4];
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) sum[row] = _mm256_setzero_ps();
    for (Index i = 0; i < n; i += 8) {
      const __m256 m = _mm256_loadu_ps(midpoint + i);
      SQUAT_UNROLL
      for (int row = 0; row < 4; ++row)
        sum[row] = _mm256_fmadd_ps(m, _mm256_loadu_ps(x[row] + i), sum[row]);
    }
    return reduce<AddFloats>(sum);
  }

  /// Four Folded: alpha, and offset = dot - centre * alpha * sum of operands.
  SQUAT_AVX2_INLINE static void store_folded(__m128 alpha, __m128 dot, __m128i sum, float centre,
                                             Folded* folded) {
    static_assert(sizeof(Folded) == 8 && offsetof(Folded, offset) == 4, "two floats in a row");
    const __m128 offset =
        _mm_fnmadd_ps(_mm_mul_ps(_mm_set1_ps(centre), alpha), _mm_cvtepi32_ps(sum), dot);
    float* target = &folded->alpha;
    _mm_storeu_ps(target, _mm_unpacklo_ps(alpha, offset));
    _mm_storeu_ps(target + 4, _mm_unpackhi_ps(alpha, offset));
  }
};

}  // namespace squat::detail::simd

#endif
