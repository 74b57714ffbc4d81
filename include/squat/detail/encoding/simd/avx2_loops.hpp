// What goes through the numbers of up to eight groups, in AVX2.
#pragma once

#include <squat/detail/encoding/simd/avx2_affine.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

/// All else that encoding does is once a group: a lane each, whatever the instruction set of the
/// loops. What they return has a lane a group too.
struct Avx2Loops : Avx2Affine {
  SQUAT_AVX2_INLINE static Extremes extremes(const Groups& groups) {
    __m256 lows[most_groups], highs[most_groups];
    for (Index group = 0; group < groups.count; ++group) {
      const float* const own = groups[group];
      __m256 low = _mm256_loadu_ps(own), high = low;
      const auto reach = [&](Index i) SQUAT_AVX2 {
        const __m256 x = _mm256_loadu_ps(own + i);
        low = _mm256_min_ps(low, x);
        high = _mm256_max_ps(high, x);
      };
      Index i = 0;
      for (; i + 64 <= groups.n; i += 64) {
        SQUAT_UNROLL
        for (Index j = 0; j < 64; j += 8) reach(i + j);
      }
      for (; i < groups.n; i += 8) reach(i);
      lows[group] = low;
      highs[group] = high;
    }
    return {combine<MinFloats>(lows, groups.count), combine<MaxFloats>(highs, groups.count)};
  }

  /// Where numbers are all the same, or none, so are sums.
  SQUAT_AVX2_INLINE static RangeSums range_sums(const Groups& groups, int bits,
                                                std::int16_t inverse_step, const float* midpoints,
                                                const float* inverse_units) {
    const __m256i ones = _mm256_set1_epi16(1), least = _mm256_set1_epi16(-range_units);
    const __m256i end = _mm256_set1_epi16(static_cast<short>((1 << bits) / 2 - 1));
    const __m256i begin = _mm256_set1_epi16(static_cast<short>(-((1 << bits) / 2)));
    const __m256i inverse = _mm256_set1_epi16(inverse_step);
    const __m128i fraction = _mm_cvtsi32_si128(range_fraction(bits));
    __m256i x[most_groups], xx[most_groups], c[most_groups], xc[most_groups];
    for (Index group = 0; group < groups.count; ++group) {
      const __m256 midpoint = _mm256_broadcast_ss(midpoints + group);
      const __m256 inverse_unit = _mm256_broadcast_ss(inverse_units + group);
      const float* const own = groups[group];
      __m256i own_x = _mm256_setzero_si256(), own_xx = own_x, own_c = own_x, own_xc = own_x;
      const auto add = [&](__m256i first, __m256i second) SQUAT_AVX2 {
        const __m256i units = _mm256_max_epi16(narrow16(first, second), least);
        __m256i code = _mm256_sra_epi16(_mm256_mulhi_epi16(units, inverse), fraction);
        code = _mm256_min_epi16(_mm256_max_epi16(code, begin), end);
        own_x = _mm256_add_epi32(own_x, _mm256_madd_epi16(units, ones));
        own_xx = _mm256_add_epi32(own_xx, _mm256_madd_epi16(units, units));
        own_c = _mm256_add_epi16(own_c, code);
        own_xc = _mm256_add_epi32(own_xc, _mm256_madd_epi16(code, units));
        // Else compilers may first add up what a chunk adds, which takes more registers.
        __asm__("" : "+x"(own_x), "+x"(own_xx), "+x"(own_c), "+x"(own_xc));
      };
      Index i = 0;
      for (; i + 64 <= groups.n; i += 64) {
        SQUAT_UNROLL
        for (Index j = i; j < i + 64; j += 16)
          add(range_units_of(own + j, midpoint, inverse_unit),
              range_units_of(own + j + 8, midpoint, inverse_unit));
      }
      for (; i + 16 <= groups.n; i += 16)
        add(range_units_of(own + i, midpoint, inverse_unit),
            range_units_of(own + i + 8, midpoint, inverse_unit));
      if (i < groups.n)
        add(range_units_of(own + i, midpoint, inverse_unit), _mm256_setzero_si256());
      x[group] = own_x;
      xx[group] = own_xx;
      c[group] = _mm256_madd_epi16(own_c, ones);
      xc[group] = own_xc;
    }
    return {total(x, groups.count), total(xx, groups.count), total(c, groups.count),
            total(xc, groups.count)};
  }

  SQUAT_AVX2_INLINE static Sizes sizes(const Groups& groups) {
    __m256 squares[most_groups], tops[most_groups];
    for (Index group = 0; group < groups.count; ++group) {
      const float* const own = groups[group];
      __m256 square = _mm256_setzero_ps(), top = square;
      for (Index i = 0; i < groups.n; i += 8) {
        const __m256 xi = _mm256_loadu_ps(own + i);
        square = add_product(square, xi, xi);
        top = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), xi), top);
      }
      squares[group] = square;
      tops[group] = top;
    }
    return {combine<AddFloats>(squares, groups.count), combine<MaxFloats>(tops, groups.count)};
  }

  SQUAT_AVX2_INLINE static StepSums step_sums(const Groups& groups, int bits,
                                              const float* inverse_units,
                                              const std::int32_t (&inverses)[symmetric_steps][8]) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i last = _mm256_set1_epi16(static_cast<short>((1 << bits) / 2 - 1));
    const __m128i fraction = _mm_cvtsi32_si128(symmetric_fraction(bits));
    __m256i x[most_groups], xc[symmetric_steps][most_groups], cc[symmetric_steps][most_groups];
    for (Index group = 0; group < groups.count; ++group) {
      const __m256 inverse_unit = _mm256_broadcast_ss(inverse_units + group);
      const float* const own = groups[group];
      __m256i inverse[symmetric_steps], own_xc[symmetric_steps], own_cc[symmetric_steps];
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        inverse[k] = _mm256_set1_epi16(static_cast<short>(inverses[k][group]));
        own_xc[k] = own_cc[k] = _mm256_setzero_si256();
      }
      __m256i own_x = _mm256_setzero_si256();
      for (Index i = 0; i < groups.n; i += 16) {
        const __m256i second =
            i + 8 < groups.n ? size_units(own + i + 8, inverse_unit) : _mm256_setzero_si256();
        const __m256i units = narrow16(size_units(own + i, inverse_unit), second);
        own_x = _mm256_add_epi32(own_x, _mm256_madd_epi16(units, ones));
        SQUAT_UNROLL
        for (int k = 0; k < symmetric_steps; ++k) {
          __m256i code = _mm256_srl_epi16(_mm256_mulhi_epu16(units, inverse[k]), fraction);
          code = _mm256_min_epi16(code, last);
          own_xc[k] = _mm256_add_epi32(own_xc[k], _mm256_madd_epi16(code, units));
          own_cc[k] =
              _mm256_add_epi32(own_cc[k], _mm256_madd_epi16(code, _mm256_add_epi16(code, ones)));
        }
      }
      x[group] = own_x;
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        xc[k][group] = own_xc[k];
        cc[k][group] = own_cc[k];
      }
    }
    StepSums sums;
    sums.x = total(x, groups.count);
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      sums.xc[k] = total(xc[k], groups.count);
      sums.cc[k] = total(cc[k], groups.count);
    }
    return sums;
  }

  /// moved = x of channel k [n], a multiple of 32, and what the errors of the first `errors` add.
  SQUAT_AVX2_INLINE static void move(const float* x, Index stride, Index k, const float* inner,
                                     Index errors, Index n, float* moved) {
    for (Index t = 0; t < n; t += 32) {
      __m256 y[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) y[v] = _mm256_loadu_ps(x + k * stride + t + 8 * v);
      for (Index i = 0; i < errors; ++i) {
        const __m256 factor = _mm256_broadcast_ss(inner + i);
        SQUAT_UNROLL
        for (int v = 0; v < 4; ++v)
          y[v] = add_product(y[v], factor, _mm256_loadu_ps(x + i * stride + t + 8 * v));
      }
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) _mm256_storeu_ps(moved + t + 8 * v, y[v]);
    }
  }

  /// Codes of moved [n], n a multiple of 32; x [n], which it came from, becomes its error.
  SQUAT_AVX2_INLINE static void encode_moved(const float* moved, Index n,
                                             const CodeGrid<float>& grid, float max_code, float* x,
                                             std::uint8_t* codes) {
    const Coder coder(grid, max_code);
    const __m256 scale = _mm256_set1_ps(grid.scale), zero = _mm256_set1_ps(grid.zero);
    for (Index t = 0; t < n; t += 32) {
      __m256i code[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) {
        float* const own = x + t + 8 * v;
        code[v] = coder.codes(_mm256_loadu_ps(moved + t + 8 * v));
        const __m256 stored = add_product(zero, _mm256_cvtepi32_ps(code[v]), scale);
        _mm256_storeu_ps(own, _mm256_sub_ps(stored, _mm256_loadu_ps(own)));
      }
      store_codes(codes + t, code[0], code[1], code[2], code[3]);
    }
  }

  /// Codes of x [n], n a multiple of 8.
  SQUAT_AVX2_INLINE static void encode(const float* x, Index n, const CodeGrid<float>& grid,
                                       float max_code, std::uint8_t* codes) {
    const Coder coder(grid, max_code);
    const auto code = [&](Index i) SQUAT_AVX2 { return coder.codes(_mm256_loadu_ps(x + i)); };
    Index i = 0;
    for (; i + 32 <= n; i += 32)
      store_codes(codes + i, code(i), code(i + 8), code(i + 16), code(i + 24));
    for (; i < n; i += 8) store64(codes + i, code(i));
  }

 private:
  struct Coder {
    SQUAT_AVX2_INLINE Coder(const CodeGrid<float>& grid, float max_code)
        : shift(_mm256_set1_ps(grid.shift)),
          inverse(_mm256_set1_ps(grid.inverse)),
          origin(_mm256_set1_ps(grid.origin)),
          last(_mm256_set1_ps(max_code)) {}

    /// grid_code
    SQUAT_AVX2_INLINE __m256i codes(__m256 x) const {
      const __m256 code = add_product(origin, _mm256_sub_ps(x, shift), inverse);
      return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), last));
    }

    __m256 shift, inverse, origin, last;
  };

  SQUAT_AVX2_INLINE static __m256i range_units_of(const float* x, __m256 midpoint,
                                                  __m256 inverse_unit) {
    const __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x), midpoint);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_mul_ps(y, inverse_unit), _mm256_set1_ps(range_units)));
  }

  SQUAT_AVX2_INLINE static __m256i size_units(const float* x, __m256 inverse_unit) {
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x));
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_mul_ps(size, inverse_unit), _mm256_set1_ps(symmetric_units)));
  }

  /// 32 codes, a byte each.
  SQUAT_AVX2_INLINE static void store_codes(std::uint8_t* target, __m256i a, __m256i b, __m256i c,
                                            __m256i d) {
    // Packing works within 128 bits and leaves fours 0, 2, 4, 6, 1, 3, 5, 7.
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    store256(target, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }
};

}  // namespace squat::detail::simd

#endif
