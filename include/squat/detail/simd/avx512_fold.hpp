// Folding scales into operands in AVX-512.
#pragma once

#include <squat/detail/simd/avx512_dot.hpp>

#if defined(SQUAT_HAVE_AVX512)

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::detail::simd {

/// Up to four heads are folded at once, so that what is summed up across a register is summed up
/// for all of them together. Where fewer are given, the missing ones stand for the first.
struct Avx512Fold : Avx512Registers {
  /// 16-bit fixed point in order, since runs of channels begin anywhere; zero up to a multiple
  /// of 64.
  SQUAT_AVX512 static float to_fixed_point(const float* x, Index n, std::int16_t* fixed) {
    return to_fixed_point<false>(x, n, fixed);
  }

  SQUAT_AVX512 static bool try_fold8(const float* x, Index x_stride, const std::int16_t* fixed,
                                     const float* units, Index count, const float* scale,
                                     const float* midpoint, Index n, float centre, float crest,
                                     float largest_alpha, std::int8_t* operands, Folded* folded) {
    switch (count) {
      case 1:
        return try_fold8_heads<1>(x, x_stride, fixed, units, scale, midpoint, n, centre, crest,
                                  largest_alpha, operands, folded);
      case 2:
        return try_fold8_heads<2>(x, x_stride, fixed, units, scale, midpoint, n, centre, crest,
                                  largest_alpha, operands, folded);
      case 3:
        return try_fold8_heads<3>(x, x_stride, fixed, units, scale, midpoint, n, centre, crest,
                                  largest_alpha, operands, folded);
      default:
        return try_fold8_heads<4>(x, x_stride, fixed, units, scale, midpoint, n, centre, crest,
                                  largest_alpha, operands, folded);
    }
  }

  SQUAT_AVX512 static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                                  const float* midpoint, Index n, float centre, float largest,
                                  std::int16_t* operands, Folded* folded) {
    largest = std::min(largest, Avx512Dot::largest_operand);
    switch (count) {
      case 1:
        return fold16_heads<1>(x, x_stride, scale, midpoint, n, centre, largest, operands, folded);
      case 2:
        return fold16_heads<2>(x, x_stride, scale, midpoint, n, centre, largest, operands, folded);
      case 3:
        return fold16_heads<3>(x, x_stride, scale, midpoint, n, centre, largest, operands, folded);
      default:
        return fold16_heads<4>(x, x_stride, scale, midpoint, n, centre, largest, operands, folded);
    }
  }

 private:
  /// to_fixed_point(); with `Positive` nothing in x is negative.
  template <bool Positive>
  SQUAT_AVX512_INLINE static float to_fixed_point(const float* x, Index n, std::int16_t* fixed) {
    __m512 top = _mm512_setzero_ps();
    Index i = 0;
    for (; i + 16 <= n; i += 16)
      top = MaxPositives::of(top, magnitude<Positive>(_mm512_loadu_ps(x + i)));
    if (i < n) top = MaxPositives::of(top, magnitude<Positive>(load<true>(x + i, n - i)));
    const float max = reduce<MaxPositives>(top);
    const __m512 inverse = _mm512_set1_ps(32767.0f / std::max(max, 1e-30f));
    for (i = 0; i + 32 <= n; i += 32)
      _mm512_storeu_si512(fixed + i,
                          in_order(narrow16(round(_mm512_loadu_ps(x + i), inverse),
                                            round(_mm512_loadu_ps(x + i + 16), inverse))));
    for (; i < n; i += 32)
      _mm512_storeu_si512(fixed + i,
                          in_order(narrow16(round(load<true>(x + i, n - i), inverse),
                                            round(load<true>(x + i + 16, n - i - 16), inverse))));
    if (i % 64 != 0) _mm512_storeu_si512(fixed + i, _mm512_setzero_si512());
    return max * (1 / 32767.0f);
  }

  template <bool Positive>
  SQUAT_AVX512_INLINE static __m512 magnitude(__m512 x) {
    return Positive ? x : _mm512_abs_ps(x);
  }

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
                                           const float* scale, const float* midpoint, Index n,
                                           float centre, float crest, float largest_alpha,
                                           std::int8_t* operands, Folded* folded) {
    constexpr int all_heads = (1 << Heads) - 1;
    alignas(64) std::int16_t fixed_scale[max_length];
    alignas(64) std::int16_t products[Heads][max_length];
    const float scale_unit = to_fixed_point<true>(scale, n, fixed_scale);
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
    const __m128i max =
        _mm_and_si128(_mm_max_epi16(words, _mm_srli_epi32(words, 16)), _mm_set1_epi32(0xffff));
    const __m128 unit = _mm_mul_ps(_mm_maskz_loadu_ps(all_heads, units), _mm_set1_ps(scale_unit));
    // Below this the products are too coarse to round again; zeros only are fine.
    const __m128 coarse = _mm_and_ps(_mm_castsi128_ps(_mm_cmplt_epi32(max, _mm_set1_epi32(1024))),
                                     _mm_cmpgt_ps(unit, _mm_setzero_ps()));
    if ((_mm_movemask_ps(coarse) & all_heads) != 0) return false;
    const __m128i factor = _mm_cvttps_epi32(_mm_div_ps(
        _mm_set1_ps(127 << 15), _mm_cvtepi32_ps(_mm_max_epi32(max, _mm_set1_epi32(128)))));
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
    __m128 dots[1];
    dot<Heads>(x, x_stride, midpoint, n, dots);
    store<Heads>(alpha, dots[0], centre, reduce<AddIntegers>(sums), folded);
    const __m128 energy = _mm_cvtepi32_ps(reduce<AddIntegers>(squares));
    const __m128 peaked =
        _mm_and_ps(_mm_cmpgt_ps(_mm_set1_ps(127.0f * 127.0f * static_cast<float>(n)),
                                _mm_mul_ps(_mm_set1_ps(crest * crest), energy)),
                   _mm_cmpgt_ps(energy, _mm_setzero_ps()));
    const __m128 refused = _mm_or_ps(peaked, _mm_cmpgt_ps(alpha, _mm_set1_ps(largest_alpha)));
    return (_mm_movemask_ps(refused) & all_heads) == 0;
  }

  template <int Heads>
  SQUAT_AVX512 static void fold16_heads(const float* x, Index x_stride, const float* scale,
                                        const float* midpoint, Index n, float centre, float largest,
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
      survey<Heads, false>(x + i, x_stride, scale + i, midpoint + i, 16, top, offsets);
    if (i < n) survey<Heads, true>(x + i, x_stride, scale + i, midpoint + i, n - i, top, offsets);
    const __m128 max = reduce<MaxFloats>(top);
    alignas(16) float inverse[4];
    _mm_store_ps(inverse, _mm_div_ps(_mm_set1_ps(largest), _mm_max_ps(max, _mm_set1_ps(1e-30f))));
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
    store<Heads>(_mm_mul_ps(max, _mm_set1_ps(1 / largest)), reduce<AddFloats>(offsets), centre, sum,
                 folded);
  }

  template <int Heads, bool Tail>
  SQUAT_AVX512_INLINE static void survey(const float* x, Index x_stride, const float* scale,
                                         const float* midpoint, Index left, __m512 top[Heads],
                                         __m512 offsets[Heads]) {
    const __m512 s = load<Tail>(scale, left), m = load<Tail>(midpoint, left);
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

}  // namespace squat::detail::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
