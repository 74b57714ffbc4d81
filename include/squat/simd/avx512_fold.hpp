// Folding scales into operands in AVX-512.
#pragma once

#include <squat/simd/avx512_dot.hpp>

#if defined(SQUAT_HAVE_AVX512)

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::simd {

/// Up to four heads are folded at once, so that what is summed up across a register is summed up
/// for all of them together. Where fewer are given, the missing ones stand for the first.
struct Avx512Fold : Avx512Registers {
  /// 16-bit fixed point in order, since runs of channels begin anywhere; zero up to a multiple
  /// of 64.
  SQUAT_AVX512 static float fix(const float* x, Index n, std::int16_t* fixed) {
    __m512 top = _mm512_setzero_ps();
    Index i = 0;
    for (; i + 16 <= n; i += 16) top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    if (i < n) top = _mm512_max_ps(top, _mm512_abs_ps(load<true>(x + i, n - i)));
    const float highest = reduce<MaxFloats>(top);
    const __m512 inverse = _mm512_set1_ps(32767.0f / std::max(highest, 1e-30f));
    for (i = 0; i + 32 <= n; i += 32)
      _mm512_storeu_si512(fixed + i,
                          in_order(narrow16(round(_mm512_loadu_ps(x + i), inverse),
                                            round(_mm512_loadu_ps(x + i + 16), inverse))));
    for (; i < n; i += 32)
      _mm512_storeu_si512(fixed + i,
                          in_order(narrow16(round(load<true>(x + i, n - i), inverse),
                                            round(load<true>(x + i + 16, n - i - 16), inverse))));
    if (i % 64 != 0) _mm512_storeu_si512(fixed + i, _mm512_setzero_si512());
    return highest * (1 / 32767.0f);
  }

  SQUAT_AVX512 static bool try_fold8(const float* x, Index x_stride, const std::int16_t* fixed,
                                     const float* units, Index count, const float* scale,
                                     const float* middle, Index n, float centre, float crest,
                                     float largest_alpha, std::int8_t* operands, Folded* folded) {
    switch (count) {
      case 1:
        return try_fold8_heads<1>(x, x_stride, fixed, units, scale, middle, n, centre, crest,
                                  largest_alpha, operands, folded);
      case 2:
        return try_fold8_heads<2>(x, x_stride, fixed, units, scale, middle, n, centre, crest,
                                  largest_alpha, operands, folded);
      case 3:
        return try_fold8_heads<3>(x, x_stride, fixed, units, scale, middle, n, centre, crest,
                                  largest_alpha, operands, folded);
      default:
        return try_fold8_heads<4>(x, x_stride, fixed, units, scale, middle, n, centre, crest,
                                  largest_alpha, operands, folded);
    }
  }

  SQUAT_AVX512 static bool try_fold8_positive(const float* x, Index x_stride, Index count,
                                              const float* scale, const float* middle, Index groups,
                                              Index n, float centre, std::int32_t least,
                                              std::uint8_t* operands, Folded* folded) {
    switch (count) {
      case 1:
        return try_fold8_positive_heads<1>(x, x_stride, scale, middle, groups, n, centre, least,
                                           operands, folded);
      case 2:
        return try_fold8_positive_heads<2>(x, x_stride, scale, middle, groups, n, centre, least,
                                           operands, folded);
      case 3:
        return try_fold8_positive_heads<3>(x, x_stride, scale, middle, groups, n, centre, least,
                                           operands, folded);
      default:
        return try_fold8_positive_heads<4>(x, x_stride, scale, middle, groups, n, centre, least,
                                           operands, folded);
    }
  }

  SQUAT_AVX512 static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                                  const float* middle, Index n, float centre, float largest,
                                  std::int16_t* operands, Folded* folded) {
    largest = std::min(largest, Avx512Dot::largest_operand);
    switch (count) {
      case 1:
        return fold16_heads<1>(x, x_stride, scale, middle, n, centre, largest, operands, folded);
      case 2:
        return fold16_heads<2>(x, x_stride, scale, middle, n, centre, largest, operands, folded);
      case 3:
        return fold16_heads<3>(x, x_stride, scale, middle, n, centre, largest, operands, folded);
      default:
        return fold16_heads<4>(x, x_stride, scale, middle, n, centre, largest, operands, folded);
    }
  }

 private:
  /// folded[h] = {alpha[h], offset[h] - centre * alpha[h] * sum[h]}.
  template <int Heads>
  SQUAT_AVX512_INLINE static void store(__m128 alpha, __m128 offset, float centre, __m128i sum,
                                        Folded* folded) {
    offset = _mm_fnmadd_ps(_mm_mul_ps(alpha, _mm_set1_ps(centre)), _mm_cvtepi32_ps(sum), offset);
    const __m256 pairs =
        _mm256_set_m128(_mm_unpackhi_ps(alpha, offset), _mm_unpacklo_ps(alpha, offset));
    _mm256_mask_storeu_ps(&folded->alpha, static_cast<__mmask8>((1 << (2 * Heads)) - 1), pairs);
  }

  /// Products, their maximum and the operands are found 32 at a time in fixed point; only what
  /// `offset` needs of x is floating point.
  template <int Heads>
  SQUAT_AVX512 static bool try_fold8_heads(const float* x, Index x_stride,
                                           const std::int16_t* fixed, const float* units,
                                           const float* scale, const float* middle, Index n,
                                           float centre, float crest, float largest_alpha,
                                           std::int8_t* operands, Folded* folded) {
    constexpr int all_heads = (1 << Heads) - 1;
    alignas(64) std::int16_t fixed_scale[max_length];
    alignas(64) std::int16_t products[Heads][max_length];
    const float scale_unit = fix(scale, n, fixed_scale);
    __m512i top[Heads], sums[Heads], squares[Heads], factors[Heads];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) top[h] = sums[h] = squares[h] = _mm512_setzero_si512();
    for (Index i = 0; i < n; i += 64) {
      SQUAT_UNROLL
      for (int half = 0; half < 64; half += 32) {
        const __m512i s = _mm512_load_si512(fixed_scale + i + half);
        SQUAT_UNROLL
        for (int h = 0; h < Heads; ++h) {
          const __m512i product =
              _mm512_mulhrs_epi16(s, _mm512_loadu_si512(fixed + h * max_length + i + half));
          _mm512_store_si512(products[h] + i + half, product);
          top[h] = _mm512_max_epi16(top[h], _mm512_abs_epi16(product));
        }
      }
    }
    const __m128i words = reduce<MaxWords>(top);
    const __m128i highest =
        _mm_and_si128(_mm_max_epi16(words, _mm_srli_epi32(words, 16)), _mm_set1_epi32(0xffff));
    const __m128 unit = _mm_mul_ps(_mm_maskz_loadu_ps(all_heads, units), _mm_set1_ps(scale_unit));
    // Below this the products are too coarse to round again; zeros only are fine.
    const __m128 coarse =
        _mm_and_ps(_mm_castsi128_ps(_mm_cmplt_epi32(highest, _mm_set1_epi32(1024))),
                   _mm_cmpgt_ps(unit, _mm_setzero_ps()));
    if ((_mm_movemask_ps(coarse) & all_heads) != 0) return false;
    const __m128i factor = _mm_cvttps_epi32(_mm_div_ps(
        _mm_set1_ps(127 << 15), _mm_cvtepi32_ps(_mm_max_epi32(highest, _mm_set1_epi32(128)))));
    alignas(16) std::int32_t twice[4];  // two words
    _mm_store_si128(reinterpret_cast<__m128i*>(twice),
                    _mm_or_si128(factor, _mm_slli_epi32(factor, 16)));
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) factors[h] = _mm512_set1_epi32(twice[h]);
    for (Index i = 0; i < n; i += 64) {
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        const __m512i bytes = in_order(_mm512_packs_epi16(
            _mm512_mulhrs_epi16(_mm512_load_si512(products[h] + i), factors[h]),
            _mm512_mulhrs_epi16(_mm512_load_si512(products[h] + i + 32), factors[h])));
        _mm512_storeu_si512(operands + h * max_length + i, bytes);
        add_products(sums[h], _mm512_set1_epi8(1), bytes);
        const __m512i sizes = _mm512_abs_epi8(bytes);
        add_products(squares[h], sizes, sizes);
      }
    }
    // products are in units of 2^15 units; an operand is one of them times factor / 2^15.
    const __m128 alpha =
        _mm_div_ps(_mm_mul_ps(unit, _mm_set1_ps(32768.0f * 32768.0f)), _mm_cvtepi32_ps(factor));
    store<Heads>(alpha, dot4<Heads>(x, x_stride, middle, n), centre, reduce<AddIntegers>(sums),
                 folded);
    const __m128 energy = _mm_cvtepi32_ps(reduce<AddIntegers>(squares));
    const __m128 peaked =
        _mm_and_ps(_mm_cmpgt_ps(_mm_set1_ps(127.0f * 127.0f * static_cast<float>(n)),
                                _mm_mul_ps(_mm_set1_ps(crest * crest), energy)),
                   _mm_cmpgt_ps(energy, _mm_setzero_ps()));
    const __m128 refused = _mm_or_ps(peaked, _mm_cmpgt_ps(alpha, _mm_set1_ps(largest_alpha)));
    return (_mm_movemask_ps(refused) & all_heads) == 0;
  }

  template <int Heads>
  SQUAT_AVX512 static bool try_fold8_positive_heads(const float* x, Index x_stride,
                                                    const float* scale, const float* middle,
                                                    Index groups, Index n, float centre,
                                                    std::int32_t least, std::uint8_t* operands,
                                                    Folded* folded) {
    bool is_fine = true;
    // Relative to the highest of the row: as they are, and as 16-bit fixed point.
    alignas(64) float relative[Heads][max_block];
    alignas(64) std::int16_t fixed[Heads][max_block];
    __m512 top[Heads];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      top[h] = _mm512_setzero_ps();
      for (Index i = 0; i < n; i += 16)
        top[h] = _mm512_max_ps(top[h], _mm512_loadu_ps(x + h * x_stride + i));
    }
    const __m128 highest = reduce<MaxFloats>(top);
    alignas(16) float inverse[4];
    _mm_store_ps(inverse, _mm_div_ps(_mm_set1_ps(1), _mm_max_ps(highest, _mm_set1_ps(1e-30f))));
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
    for (Index first = 0; first < groups; first += 4, scale += 4 * n, middle += 4 * n) {
      const Index count = std::min(groups - first, Index{4});
      alignas(16) float highest_scale[4], scale_factor[4];
      __m512 top_scale[4];
      for (Index g = 0; g < 4; ++g) {
        top_scale[g] = _mm512_setzero_ps();
        if (g < count)
          for (Index i = 0; i < n; i += 16)
            top_scale[g] = _mm512_max_ps(top_scale[g], _mm512_loadu_ps(scale + g * n + i));
      }
      const __m128 highest4 = reduce<MaxFloats>(top_scale);
      _mm_store_ps(highest_scale, highest4);
      _mm_store_ps(scale_factor, _mm_div_ps(_mm_set1_ps(255 * 128.0f),
                                            _mm_max_ps(highest4, _mm_set1_ps(1e-30f))));
      for (Index g = 0; g < count; ++g, operands += max_heads * max_block, folded += max_heads)
        is_fine &= fold8_group<Heads>(relative, fixed, highest, scale + g * n, scale_factor[g],
                                      highest_scale[g], middle + g * n, n, centre, least, operands,
                                      folded);
    }
    return is_fine;
  }

  /// One group of try_fold8_positive(), its scales brought to at most 255 * 128.
  template <int Heads>
  SQUAT_AVX512_INLINE static bool fold8_group(const float (&relative)[Heads][max_block],
                                              const std::int16_t (&fixed)[Heads][max_block],
                                              __m128 highest, const float* scale,
                                              float scale_factor, float highest_scale,
                                              const float* middle, Index n, float centre,
                                              std::int32_t least, std::uint8_t* operands,
                                              Folded* folded) {
    constexpr int pairs = (Heads + 1) / 2;
    // 32 operands of one head, then 32 of another, from what narrow16() left.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 factor = _mm512_set1_ps(scale_factor);
    const __m512i by_128 = _mm512_set1_epi16(1 << 8);  // mulhrs with this divides by 128
    __m512 offsets[Heads];
    __m512i sums[pairs], squares[Heads];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      offsets[h] = _mm512_setzero_ps();
      squares[h] = _mm512_setzero_si512();
    }
    SQUAT_UNROLL
    for (int pair = 0; pair < pairs; ++pair) sums[pair] = _mm512_setzero_si512();
    for (Index i = 0; i < n; i += 32) {
      const __m512i s = narrow16(round(_mm512_loadu_ps(scale + i), factor),
                                 round(_mm512_loadu_ps(scale + i + 16), factor));
      const __m512 m0 = _mm512_loadu_ps(middle + i), m1 = _mm512_loadu_ps(middle + i + 16);
      __m512i words[Heads];
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        offsets[h] = _mm512_fmadd_ps(m0, _mm512_load_ps(relative[h] + i), offsets[h]);
        offsets[h] = _mm512_fmadd_ps(m1, _mm512_load_ps(relative[h] + i + 16), offsets[h]);
        words[h] =
            _mm512_mulhrs_epi16(_mm512_mulhrs_epi16(s, _mm512_load_si512(fixed[h] + i)), by_128);
        squares[h] = _mm512_dpwssd_epi32(squares[h], words[h], words[h]);
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
    // A register holds the sums of two heads, in its halves.
    const __m512 s01 = _mm512_castsi512_ps(sums[0]), s23 = _mm512_castsi512_ps(sums[pairs - 1]);
    __m512 sum =
        AddIntegers::of(_mm512_shuffle_f32x4(s01, s23, 0x88), _mm512_shuffle_f32x4(s01, s23, 0xdd));
    sum = AddIntegers::of(sum, _mm512_shuffle_ps(sum, sum, 0x4e));
    sum = AddIntegers::of(sum, _mm512_shuffle_ps(sum, sum, 0xb1));
    const __m128i sum4 = _mm512_castsi512_si128(_mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12),
        _mm512_castps_si512(sum)));
    const __m128 alpha = _mm_mul_ps(highest, _mm_set1_ps(highest_scale * (1 / 255.0f)));
    store<Heads>(alpha, _mm_mul_ps(highest, reduce<AddFloats>(offsets)), centre, sum4, folded);
    const __m128i few = _mm_cmpgt_epi32(_mm_set1_epi32(least), reduce<AddIntegers>(squares));
    const __m128 too_coarse =
        _mm_and_ps(_mm_castsi128_ps(few), _mm_cmpgt_ps(alpha, _mm_setzero_ps()));
    return (_mm_movemask_ps(too_coarse) & ((1 << Heads) - 1)) == 0;
  }

  template <int Heads>
  SQUAT_AVX512 static void fold16_heads(const float* x, Index x_stride, const float* scale,
                                        const float* middle, Index n, float centre, float largest,
                                        std::int16_t* operands, Folded* folded) {
    __m512 top[Heads], offsets[Heads], factors[Heads];
    __m512i sums[Heads];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      top[h] = offsets[h] = _mm512_setzero_ps();
      sums[h] = _mm512_setzero_si512();
    }
    Index i = 0;
    for (; i + 16 <= n; i += 16)
      survey<Heads, false>(x + i, x_stride, scale + i, middle + i, 16, top, offsets);
    if (i < n) survey<Heads, true>(x + i, x_stride, scale + i, middle + i, n - i, top, offsets);
    const __m128 highest = reduce<MaxFloats>(top);
    alignas(16) float inverse[4];
    _mm_store_ps(inverse,
                 _mm_div_ps(_mm_set1_ps(largest), _mm_max_ps(highest, _mm_set1_ps(1e-30f))));
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) factors[h] = _mm512_set1_ps(inverse[h]);
    for (i = 0; i + 32 <= n; i += 32)
      write16<Heads, false>(x + i, x_stride, scale + i, 32, factors, operands + i, sums);
    if (i < n) {
      write16<Heads, true>(x + i, x_stride, scale + i, n - i, factors, operands + i, sums);
      i += 32;
    }
    // write16 sums up operand + 128, over i depths.
    const __m128i sum =
        _mm_sub_epi32(reduce<AddIntegers>(sums), _mm_set1_epi32(static_cast<int>(128 * i)));
    store<Heads>(_mm_mul_ps(highest, _mm_set1_ps(1 / largest)), reduce<AddFloats>(offsets), centre,
                 sum, folded);
  }

  template <int Heads, bool Tail>
  SQUAT_AVX512_INLINE static void survey(const float* x, Index x_stride, const float* scale,
                                         const float* middle, Index left, __m512 top[Heads],
                                         __m512 offsets[Heads]) {
    const __m512 s = load<Tail>(scale, left), m = load<Tail>(middle, left);
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const __m512 xi = load<Tail>(x + h * x_stride, left);
      top[h] = _mm512_max_ps(top[h], _mm512_abs_ps(_mm512_mul_ps(xi, s)));
      offsets[h] = _mm512_fmadd_ps(xi, m, offsets[h]);
    }
  }

  /// 32 operands of 16 bits, as Avx512Dot wants them.
  template <int Heads, bool Tail>
  SQUAT_AVX512_INLINE static void write16(const float* x, Index x_stride, const float* scale,
                                          Index left, const __m512 factors[Heads],
                                          std::int16_t* operands, __m512i sums[Heads]) {
    const __m512i by_parts =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    const __m512 half = _mm512_set1_ps(128);
    const __m512 s0 = load<Tail>(scale, left), s1 = load<Tail>(scale + 16, left - 16);
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      const __m512 p0 = _mm512_mul_ps(load<Tail>(x + h * x_stride, left), s0);
      const __m512 p1 = _mm512_mul_ps(load<Tail>(x + h * x_stride + 16, left - 16), s1);
      // The upper byte of operand + 128 is its high part, the lower byte its low part + 128.
      const __m512i words = narrow16(_mm512_cvtps_epi32(_mm512_fmadd_ps(p0, factors[h], half)),
                                     _mm512_cvtps_epi32(_mm512_fmadd_ps(p1, factors[h], half)));
      sums[h] = _mm512_dpwssd_epi32(sums[h], words, _mm512_set1_epi16(1));
      const __m512i parts = _mm512_xor_si512(words, _mm512_set1_epi16(0x80));
      _mm512_storeu_si512(operands + h * max_length,
                          in_order(_mm512_shuffle_epi8(parts, by_parts)));
    }
  }
};

}  // namespace squat::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
