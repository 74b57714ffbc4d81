// Folding scales into operands that are not negative, in AVX-512.
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

/// VectorKernels::try_fold8_positive; heads as in Avx512Fold.
struct Avx512FoldPositive : Avx512Registers {
  SQUAT_AVX512 static bool try_fold8(const float* x, Index x_stride, Index count,
                                     const float* scale, const float* midpoint, Index groups,
                                     Index n, float centre, std::int32_t least,
                                     std::uint8_t* operands, Folded* folded) {
    switch (count) {
      case 1:
        return try_fold8_heads<1>(x, x_stride, scale, midpoint, groups, n, centre, least, operands,
                                  folded);
      case 2:
        return try_fold8_heads<2>(x, x_stride, scale, midpoint, groups, n, centre, least, operands,
                                  folded);
      case 3:
        return try_fold8_heads<3>(x, x_stride, scale, midpoint, groups, n, centre, least, operands,
                                  folded);
      default:
        return try_fold8_heads<4>(x, x_stride, scale, midpoint, groups, n, centre, least, operands,
                                  folded);
    }
  }

 private:
  template <int Heads>
  SQUAT_AVX512 static bool try_fold8_heads(const float* x, Index x_stride, const float* scale,
                                           const float* midpoint, Index groups, Index n,
                                           float centre, std::int32_t least, std::uint8_t* operands,
                                           Folded* folded) {
    bool is_fine = true;
    // Relative to the max of the row: as they are, and as 16-bit fixed point.
    alignas(64) float relative[Heads][max_block];
    alignas(64) std::int16_t fixed[Heads][max_block];
    __m512 top[Heads];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      top[h] = _mm512_setzero_ps();
      for (Index i = 0; i < n; i += 16)
        top[h] = MaxPositives::of(top[h], _mm512_loadu_ps(x + h * x_stride + i));
    }
    const __m128 max = reduce<MaxPositives>(top);
    alignas(16) float inverse[4];
    _mm_store_ps(inverse, _mm_div_ps(_mm_set1_ps(1), _mm_max_ps(max, _mm_set1_ps(1e-30f))));
    const __m512 one = _mm512_set1_ps(32767.0f);
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const __m512 factor = _mm512_set1_ps(inverse[h]);
      for (Index i = 0; i < n; i += 32) {
        const __m512 a = _mm512_mul_ps(_mm512_loadu_ps(x + h * x_stride + i), factor);
        const __m512 b = _mm512_mul_ps(_mm512_loadu_ps(x + h * x_stride + i + 16), factor);
        _mm512_store_ps(relative[h] + i, a);
        _mm512_store_ps(relative[h] + i + 16, b);
        _mm512_store_si512(fixed[h] + i, narrow16(round(a, one), round(b, one)));
      }
    }
    for (Index first = 0; first < groups; first += 4, scale += 4 * n, midpoint += 4 * n) {
      const Index count = std::min(groups - first, Index{4});
      alignas(16) float scale_factor[4];
      __m512 top_scale[4];
      for (Index g = 0; g < 4; ++g) {
        top_scale[g] = _mm512_setzero_ps();
        if (g < count)
          for (Index i = 0; i < n; i += 16)
            top_scale[g] = MaxPositives::of(top_scale[g], _mm512_loadu_ps(scale + g * n + i));
      }
      const __m128 highest_scale = reduce<MaxPositives>(top_scale);
      _mm_store_ps(scale_factor, _mm_div_ps(_mm_set1_ps(255 * 128.0f),
                                            _mm_max_ps(highest_scale, _mm_set1_ps(1e-30f))));
      Groups sums;
      for (Index g = count; g < 4; ++g)
        sums.offsets[g] = sums.operands[g] = sums.squares[g] = _mm512_setzero_ps();
      for (Index g = 0; g < count; ++g, operands += max_heads * max_block)
        fold8_group<Heads>(relative, fixed, scale + g * n, scale_factor[g], midpoint + g * n, n,
                           operands, sums.offsets[g], sums.operands[g], sums.squares[g]);
      is_fine &= finish<Heads>(sums, count, max, highest_scale, centre, least, folded);
      folded += 4 * max_heads;
    }
    return is_fine;
  }

  /// Sums over the tokens of up to four groups, in four parts each: of offsets and squares as
  /// interleave() leaves them, of operands head h in lanes 4 h to 4 h + 3.
  struct Groups {
    __m512 offsets[4], operands[4], squares[4];
  };

  /// One group, its scales brought to at most 255 * 128.
  template <int Heads>
  SQUAT_AVX512_INLINE static void fold8_group(const float (&relative)[Heads][max_block],
                                              const std::int16_t (&fixed)[Heads][max_block],
                                              const float* scale, float scale_factor,
                                              const float* midpoint, Index n,
                                              std::uint8_t* operands, __m512& offset_parts,
                                              __m512& operand_parts, __m512& square_parts) {
    constexpr int pairs = (Heads + 1) / 2;
    // 32 operands of one head, then 32 of another, from what narrow16() left.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 factor = _mm512_set1_ps(scale_factor);
    const __m512i by_128 = _mm512_set1_epi16(1 << 8);  // mulhrs with this divides by 128
    __m512 offsets[Heads], squares[Heads];
    __m512i sums[pairs];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) offsets[h] = squares[h] = _mm512_setzero_ps();
    SQUAT_UNROLL
    for (int pair = 0; pair < pairs; ++pair) sums[pair] = _mm512_setzero_si512();
    for (Index i = 0; i < n; i += 32) {
      const __m512i s = narrow16(round(_mm512_loadu_ps(scale + i), factor),
                                 round(_mm512_loadu_ps(scale + i + 16), factor));
      const __m512 m0 = _mm512_loadu_ps(midpoint + i), m1 = _mm512_loadu_ps(midpoint + i + 16);
      __m512i words[Heads];
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        offsets[h] = _mm512_fmadd_ps(m0, _mm512_load_ps(relative[h] + i), offsets[h]);
        offsets[h] = _mm512_fmadd_ps(m1, _mm512_load_ps(relative[h] + i + 16), offsets[h]);
        words[h] =
            _mm512_mulhrs_epi16(_mm512_mulhrs_epi16(s, _mm512_load_si512(fixed[h] + i)), by_128);
        squares[h] = _mm512_castsi512_ps(
            _mm512_dpwssd_epi32(_mm512_castps_si512(squares[h]), words[h], words[h]));
      }
      SQUAT_UNROLL
      for (int pair = 0; pair < pairs; ++pair) {
        const int a = 2 * pair, b = a + 1 < Heads ? a + 1 : a;
        const __m512i bytes =
            _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words[a], words[b]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(operands + a * max_block + i),
                            _mm512_castsi512_si256(bytes));
        if (b != a)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(operands + b * max_block + i),
                              _mm512_extracti64x4_epi64(bytes, 1));
        add_products(sums[pair], bytes, _mm512_set1_epi8(1));
      }
    }
    offset_parts = interleave<AddFloats>(offsets);
    square_parts = interleave<AddIntegers>(squares);
    // A register holds the sums of two heads, in its halves.
    const __m512 s01 = _mm512_castsi512_ps(sums[0]), s23 = _mm512_castsi512_ps(sums[pairs - 1]);
    operand_parts =
        AddIntegers::of(_mm512_shuffle_f32x4(s01, s23, 0x88), _mm512_shuffle_f32x4(s01, s23, 0xdd));
  }

  /// What folding of up to four groups comes to: lane 4 g + h is head h of group g.
  template <int Heads>
  SQUAT_AVX512_INLINE static bool finish(const Groups& parts, Index count, __m128 highest4,
                                         __m128 highest_scale4, float centre, std::int32_t least,
                                         Folded* folded) {
    // Of each head the four groups; then of each group the four heads.
    const __m512i across = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i sums = _mm512_permutexvar_epi32(
        across, _mm512_castps_si512(interleave<AddIntegers>(parts.operands)));
    const __m512 max = _mm512_broadcast_f32x4(highest4);
    const __m512 highest_scale =
        _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                              _mm512_broadcast_f32x4(highest_scale4));
    const __m512 alpha =
        _mm512_mul_ps(max, _mm512_mul_ps(highest_scale, _mm512_set1_ps(1 / 255.0f)));
    const __m512 offset =
        _mm512_fnmadd_ps(_mm512_mul_ps(alpha, _mm512_set1_ps(centre)), _mm512_cvtepi32_ps(sums),
                         _mm512_mul_ps(max, add_quarters<AddFloats>(parts.offsets)));
    const __mmask16 used = first_lanes(4 * count);
    store_pairs(alpha, offset, count, folded);
    const __mmask16 few = _mm512_cmpgt_epi32_mask(
        _mm512_set1_epi32(least), _mm512_castps_si512(add_quarters<AddIntegers>(parts.squares)));
    constexpr int heads = (1 << Heads) - 1;
    constexpr auto asked = static_cast<__mmask16>(heads * 0x1111);
    return (few & asked & used & _mm512_cmp_ps_mask(alpha, _mm512_setzero_ps(), _CMP_GT_OQ)) == 0;
  }

  /// Lane 4 g + h is the sum of x[g] over the lanes h, 4 + h, 8 + h and 12 + h.
  template <class Operation>
  SQUAT_AVX512_INLINE static __m512 add_quarters(const __m512 (&x)[4]) {
    const __m512 ab = Operation::of(_mm512_shuffle_f32x4(x[0], x[1], 0x44),
                                    _mm512_shuffle_f32x4(x[0], x[1], 0xee));
    const __m512 cd = Operation::of(_mm512_shuffle_f32x4(x[2], x[3], 0x44),
                                    _mm512_shuffle_f32x4(x[2], x[3], 0xee));
    return Operation::of(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  }

  /// folded[4 g + h] = {alpha, offset} of lane 4 g + h, for `count` groups g.
  SQUAT_AVX512_INLINE static void store_pairs(__m512 alpha, __m512 offset, Index count,
                                              Folded* folded) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    const __m512 low = _mm512_permutex2var_ps(alpha, first, offset);
    const __m512 high = _mm512_permutex2var_ps(alpha, second, offset);
    // What reads them soon would wait for a masked store.
    if (count >= 2)
      _mm512_storeu_ps(&folded->alpha, low);
    else
      _mm512_mask_storeu_ps(&folded->alpha, first_lanes(8), low);
    if (count == 4)
      _mm512_storeu_ps(&folded[8].alpha, high);
    else if (count == 3)
      _mm512_mask_storeu_ps(&folded[8].alpha, first_lanes(8), high);
  }
};

}  // namespace squat::detail::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
