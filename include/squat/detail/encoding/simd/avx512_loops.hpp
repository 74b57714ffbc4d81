// What goes through the numbers of up to eight groups, in AVX-512.
#pragma once

#include <squat/detail/encoding/simd/avx2_loops.hpp>
#include <squat/detail/simd/avx512_registers.hpp>

#if defined(SQUAT_HAVE_AVX512)

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::detail::simd {

/// As Avx2Loops.
struct Avx512Loops : Avx512Registers {
  using Groups = Avx2Affine::Groups;
  static constexpr Index most_groups = Avx2Affine::most_groups;

  SQUAT_AVX512 static Avx2Affine::Extremes extremes(const Groups& groups) {
    __m512 lows[most_groups], highs[most_groups];
    for (Index group = 0; group < groups.count; ++group) {
      const float* const own = groups[group];
      __m512 low = _mm512_set1_ps(*own), high = low;
      Index i = 0;
      for (; i + 16 <= groups.n; i += 16) {
        const __m512 x = _mm512_loadu_ps(own + i);
        low = _mm512_min_ps(low, x);
        high = _mm512_max_ps(high, x);
      }
      if (i < groups.n) {
        const __m512 x = _mm512_mask_loadu_ps(low, first_lanes(groups.n - i), own + i);
        low = _mm512_min_ps(low, x);
        high = _mm512_max_ps(high, x);
      }
      lows[group] = low;
      highs[group] = high;
    }
    return {combine<MinFloats>(lows, groups.count), combine<MaxFloats>(highs, groups.count)};
  }

  SQUAT_AVX512 static Avx2Affine::RangeSums range_sums(const Groups& groups, int bits,
                                                       std::int16_t inverse_step,
                                                       const float* midpoints,
                                                       const float* inverse_units) {
    const RangeCodes codes(bits, inverse_step);
    __m512i x[most_groups], xx[most_groups], c[most_groups], xc[most_groups];
    for (Index group = 0; group < groups.count; ++group) {
      const __m512 midpoint = _mm512_set1_ps(midpoints[group]);
      const __m512 inverse_unit = _mm512_set1_ps(inverse_units[group]);
      const float* const own = groups[group];
      __m512i own_x = _mm512_setzero_si512(), own_xx = own_x, own_c = own_x, own_xc = own_x;
      const auto add = [&](__m512i first, __m512i second) SQUAT_AVX512 {
        const __m512i units = _mm512_max_epi16(narrow16(first, second), codes.least);
        const __m512i code = codes.of(units);
        add_word_products(own_x, units, codes.ones);
        add_word_products(own_xx, units, units);
        add_word_products(own_c, code, codes.ones);
        add_word_products(own_xc, code, units);
      };
      Index i = 0;
      for (; i + 32 <= groups.n; i += 32)
        add(range_units_of<false>(own + i, 16, midpoint, inverse_unit),
            range_units_of<false>(own + i + 16, 16, midpoint, inverse_unit));
      if (i < groups.n)
        add(range_units_of<true>(own + i, groups.n - i, midpoint, inverse_unit),
            range_units_of<true>(own + i + 16, groups.n - i - 16, midpoint, inverse_unit));
      x[group] = own_x;
      xx[group] = own_xx;
      c[group] = own_c;
      xc[group] = own_xc;
    }
    return {total(x, groups.count), total(xx, groups.count), total(c, groups.count),
            total(xc, groups.count)};
  }

  SQUAT_AVX512 static Avx2Affine::Sizes sizes(const Groups& groups) {
    // Two groups to a register, so that each is summed up in the order of Avx2Loops.
    __m512 squares[most_groups / 2], tops[most_groups / 2];
    SQUAT_UNROLL
    for (Index pair = 0; pair < 4; ++pair) {
      const float* const first = groups[std::min(pair, groups.count - 1)];
      const float* const second = groups[std::min(pair + 4, groups.count - 1)];
      __m512 square = _mm512_setzero_ps(), top = square;
      for (Index i = 0; i < groups.n; i += 8) {
        const __m512 x = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(first + i)),
                                            _mm256_loadu_ps(second + i), 1);
        square = add_product(square, x, x);
        top = _mm512_max_ps(_mm512_abs_ps(x), top);
      }
      squares[pair] = square;
      tops[pair] = top;
    }
    return {combine_pairs<AddFloats>(squares), combine_pairs<MaxFloats>(tops)};
  }

  SQUAT_AVX512 static Avx2Affine::StepSums step_sums(
      const Groups& groups, int bits, const float* inverse_units,
      const std::int32_t (&inverses)[symmetric_steps][8]) {
    const __m512i ones = _mm512_set1_epi16(1);
    const __m512i last = _mm512_set1_epi16(static_cast<short>((1 << bits) / 2 - 1));
    const __m128i fraction = _mm_cvtsi32_si128(symmetric_fraction(bits));
    __m512i x[most_groups], xc[symmetric_steps][most_groups], cc[symmetric_steps][most_groups];
    for (Index group = 0; group < groups.count; ++group) {
      const __m512 inverse_unit = _mm512_set1_ps(inverse_units[group]);
      const float* const own = groups[group];
      __m512i inverse[symmetric_steps], own_xc[symmetric_steps], own_cc[symmetric_steps];
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        inverse[k] = _mm512_set1_epi16(static_cast<short>(inverses[k][group]));
        own_xc[k] = own_cc[k] = _mm512_setzero_si512();
      }
      __m512i own_x = _mm512_setzero_si512();
      const auto add = [&](__m512i units) SQUAT_AVX512 {
        add_word_products(own_x, units, ones);
        SQUAT_UNROLL
        for (int k = 0; k < symmetric_steps; ++k) {
          const __m512i down = _mm512_srl_epi16(_mm512_mulhi_epu16(units, inverse[k]), fraction);
          const __m512i code = _mm512_min_epi16(down, last);
          add_word_products(own_xc[k], code, units);
          add_word_products(own_cc[k], code, _mm512_add_epi16(code, ones));
        }
      };
      Index i = 0;
      for (; i + 32 <= groups.n; i += 32)
        add(narrow16(size_units<false>(own + i, 16, inverse_unit),
                     size_units<false>(own + i + 16, 16, inverse_unit)));
      if (i < groups.n)
        add(narrow16(size_units<true>(own + i, groups.n - i, inverse_unit),
                     size_units<true>(own + i + 16, groups.n - i - 16, inverse_unit)));
      x[group] = own_x;
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        xc[k][group] = own_xc[k];
        cc[k][group] = own_cc[k];
      }
    }
    Avx2Affine::StepSums sums;
    sums.x = total(x, groups.count);
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      sums.xc[k] = total(xc[k], groups.count);
      sums.cc[k] = total(cc[k], groups.count);
    }
    return sums;
  }

  SQUAT_AVX512 static void move(const float* x, Index stride, Index k, const float* inner,
                                Index errors, Index n, float* moved) {
    Index t = 0;
    for (; t + 64 <= n; t += 64) {
      __m512 y[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) y[v] = _mm512_loadu_ps(x + k * stride + t + 16 * v);
      for (Index i = 0; i < errors; ++i) {
        const __m512 factor = _mm512_set1_ps(inner[i]);
        SQUAT_UNROLL
        for (int v = 0; v < 4; ++v)
          y[v] = add_product(y[v], factor, _mm512_loadu_ps(x + i * stride + t + 16 * v));
      }
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) _mm512_storeu_ps(moved + t + 16 * v, y[v]);
    }
    if (t < n) Avx2Loops::move(x + t, stride, k, inner, errors, n - t, moved + t);
  }

  SQUAT_AVX512 static void encode_moved(const float* moved, Index n, const CodeGrid<float>& grid,
                                        float max_code, float* x, std::uint8_t* codes) {
    const Coder coder(grid, max_code);
    const __m512 scale = _mm512_set1_ps(grid.scale), zero = _mm512_set1_ps(grid.zero);
    Index t = 0;
    for (; t + 64 <= n; t += 64) {
      __m512i code[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) {
        float* const own = x + t + 16 * v;
        code[v] = coder.codes(_mm512_loadu_ps(moved + t + 16 * v));
        const __m512 stored = add_product(zero, _mm512_cvtepi32_ps(code[v]), scale);
        _mm512_storeu_ps(own, _mm512_sub_ps(stored, _mm512_loadu_ps(own)));
      }
      store_codes(codes + t, code);
    }
    if (t < n) Avx2Loops::encode_moved(moved + t, n - t, grid, max_code, x + t, codes + t);
  }

  SQUAT_AVX512 static void encode(const float* x, Index n, const CodeGrid<float>& grid,
                                  float max_code, std::uint8_t* codes) {
    const Coder coder(grid, max_code);
    Index i = 0;
    for (; i + 64 <= n; i += 64) {
      __m512i code[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) code[v] = coder.codes(_mm512_loadu_ps(x + i + 16 * v));
      store_codes(codes + i, code);
    }
    if (i < n) Avx2Loops::encode(x + i, n - i, grid, max_code, codes + i);
  }

 private:
  struct MinFloats {
    SQUAT_AVX512_INLINE static __m512 of(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
  };

  struct RangeCodes {
    SQUAT_AVX512_INLINE RangeCodes(int bits, std::int16_t inverse_step)
        : ones(_mm512_set1_epi16(1)),
          least(_mm512_set1_epi16(-range_units)),
          begin(_mm512_set1_epi16(static_cast<short>(-((1 << bits) / 2)))),
          end(_mm512_set1_epi16(static_cast<short>((1 << bits) / 2 - 1))),
          inverse(_mm512_set1_epi16(inverse_step)),
          fraction(_mm_cvtsi32_si128(range_fraction(bits))) {}

    SQUAT_AVX512_INLINE __m512i of(__m512i units) const {
      const __m512i down = _mm512_sra_epi16(_mm512_mulhi_epi16(units, inverse), fraction);
      return _mm512_min_epi16(_mm512_max_epi16(down, begin), end);
    }

    __m512i ones, least, begin, end, inverse;
    __m128i fraction;
  };

  struct Coder {
    SQUAT_AVX512_INLINE Coder(const CodeGrid<float>& grid, float max_code)
        : shift(_mm512_set1_ps(grid.shift)),
          inverse(_mm512_set1_ps(grid.inverse)),
          origin(_mm512_set1_ps(grid.origin)),
          last(_mm512_set1_ps(max_code)) {}

    SQUAT_AVX512_INLINE __m512i codes(__m512 x) const {
      const __m512 code = add_product(origin, _mm512_sub_ps(x, shift), inverse);
      return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(code, _mm512_setzero_ps()), last));
    }

    __m512 shift, inverse, origin, last;
  };

  /// Of a tail only the first `left` numbers, then zeros.
  template <bool Tail>
  SQUAT_AVX512_INLINE static __m512i range_units_of(const float* x, Index left, __m512 midpoint,
                                                    __m512 inverse_unit) {
    const __m512 y = _mm512_mul_ps(_mm512_sub_ps(load<Tail>(x, left), midpoint), inverse_unit);
    const __m512i units = _mm512_cvtps_epi32(_mm512_min_ps(y, _mm512_set1_ps(range_units)));
    return Tail ? _mm512_maskz_mov_epi32(first_lanes(left), units) : units;
  }
  template <bool Tail>
  SQUAT_AVX512_INLINE static __m512i size_units(const float* x, Index left, __m512 inverse_unit) {
    const __m512 size = _mm512_mul_ps(_mm512_abs_ps(load<Tail>(x, left)), inverse_unit);
    return _mm512_cvtps_epi32(_mm512_min_ps(size, _mm512_set1_ps(symmetric_units)));
  }

  SQUAT_AVX512_INLINE static void add_word_products(__m512i& sums, __m512i a, __m512i b) {
    sums = _mm512_dpwssd_epi32(sums, a, b);
    __asm__("" : "+v"(sums));  // as in add_products()
  }

  /// 64 codes, a byte each.
  SQUAT_AVX512_INLINE static void store_codes(std::uint8_t* target, const __m512i (&code)[4]) {
    const __m512i bytes =
        _mm512_packus_epi16(narrow16(code[0], code[1]), narrow16(code[2], code[3]));
    // Packing works within 128 bits and leaves fours of each register in turn.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(target, _mm512_permutexvar_epi32(order, bytes));
  }

  /// Lane i combines the lanes of x[i], `count` of them; where there are but four, the others are
  /// like those.
  template <class Operation>
  SQUAT_AVX512_INLINE static __m256 combine(__m512 (&x)[most_groups], Index count) {
    Avx2Affine::fill(x, count);
    __m512 pairs[4];
    SQUAT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m512 other = x[count <= 4 ? i : i + 4];
      pairs[i] = Operation::of(_mm512_shuffle_f32x4(x[i], other, 0x44),
                               _mm512_shuffle_f32x4(x[i], other, 0xee));
    }
    return combine_pairs<Operation>(pairs);
  }

  SQUAT_AVX512_INLINE static __m256 total(const __m512i (&x)[most_groups], Index count) {
    __m512 lanes[most_groups];
    SQUAT_UNROLL
    for (Index i = 0; i < most_groups; ++i) lanes[i] = _mm512_castsi512_ps(x[i < count ? i : 0]);
    return _mm256_cvtepi32_ps(_mm256_castps_si256(combine<AddIntegers>(lanes, count)));
  }

  /// Lanes i and i + 4 combine the lower and the upper half of pairs[i], in the order of
  /// Avx2Registers::reduce().
  template <class Operation>
  SQUAT_AVX512_INLINE static __m256 combine_pairs(const __m512 (&pairs)[4]) {
    __m512 all = interleave<Operation>(pairs);
    all = Operation::of(all, _mm512_shuffle_f32x4(all, all, 0xb1));
    return _mm512_castps512_ps256(_mm512_shuffle_f32x4(all, all, 0x08));
  }
};

}  // namespace squat::detail::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
