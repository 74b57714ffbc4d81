// Grids of groups of numbers in AVX2, up to eight groups side by side.
#pragma once

#include <squat/simd/avx2_symmetric.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

/// What finding a grid takes is mostly waiting: for sums, and for divisions. Eight groups wait
/// together, a lane each. Every number is that of the portable version, to the bit.
struct Avx2Grids : Avx2Symmetric {
 protected:
  SQUAT_AVX2 static void find_grids(const Groups& groups, const GroupFormat& format, float expected,
                                    Grids& grids) {
    if (format.fit == GridFit::symmetric)
      return find_symmetric(groups, format.bits, format.scale_bits, grids);
    __m256 lows[8], highs[8];
    for (Index group = 0; group < groups.count; ++group) {
      const float* const own = groups[group];
      __m256 low = _mm256_loadu_ps(own), high = low;
      for (Index i = 8; i < groups.n; i += 8) {
        low = _mm256_min_ps(low, _mm256_loadu_ps(own + i));
        high = _mm256_max_ps(high, _mm256_loadu_ps(own + i));
      }
      lows[group] = low;
      highs[group] = high;
    }
    fill(lows, groups.count);
    fill(highs, groups.count);
    const __m256 limit = _mm256_set1_ps(static_cast<float>(largest_storable(format.scale_bits)));
    const __m256 low = within(combine<MinFloats>(lows, groups.count), limit);
    const __m256 high = within(combine<MaxFloats>(highs, groups.count), limit);
    if (format.fit == GridFit::unbiased)
      find_unbiased(groups, format, low, high, expected, grids);
    else
      store_nearest(stored_range(low, high, static_cast<float>((1 << format.bits) - 1),
                                 format.scale_bits, expected),
                    grids);
  }

  /// Where eight numbers lie on their grid; rounded, that is their codes.
  SQUAT_AVX2_INLINE static __m256 on_grid(__m256 x, __m256 inverse, __m256 origin, __m256 levels) {
    return _mm256_min_ps(_mm256_max_ps(add_product(origin, x, inverse), _mm256_setzero_ps()),
                         levels);
  }

 private:
  SQUAT_AVX2_INLINE static void store_nearest(const Affines& affines, Grids& grids) {
    _mm256_store_ps(grids.scale, affines.scale);
    _mm256_store_ps(grids.zero, affines.zero);
    _mm256_store_ps(grids.shift, affines.zero);
    _mm256_store_ps(grids.inverse, if_positive(affines.scale, inverse(affines.scale)));
    _mm256_store_ps(grids.origin, _mm256_setzero_ps());
  }

  /// GroupSums, a lane a group.
  struct RangeSums {
    __m256 x, xx, c, cc, xc;
  };

  /// unbiased_codes, but for the codes.
  SQUAT_AVX2_INLINE static void find_unbiased(const Groups& groups, const GroupFormat& format,
                                              __m256 low, __m256 high, float expected,
                                              Grids& grids) {
    const float levels = static_cast<float>((1 << format.bits) - 1);
    const __m256 range = _mm256_sub_ps(high, low);
    const __m256 step = _mm256_mul_ps(range, _mm256_set1_ps(1 / levels));
    const __m256 middle = _mm256_mul_ps(_mm256_add_ps(low, high), _mm256_set1_ps(0.5f));
    const __m256 unit = _mm256_mul_ps(range, _mm256_set1_ps(0.5f / range_units));
    alignas(32) float middles[8], inverse_units[8];
    _mm256_store_ps(middles, middle);
    const __m256 inverse_unit = inverse(unit);
    _mm256_store_ps(inverse_units, inverse_unit);

    RangeSums sums[3];
    const RangeSteps& steps = range_steps(format.bits);
    if (steps.count == 3)
      add_up_parts<3>(groups, format.bits, middles, inverse_units, sums);
    else
      add_up_parts<1>(groups, format.bits, middles, inverse_units, sums);

    const __m256 inverse_count = _mm256_set1_ps(1 / static_cast<float>(groups.n));
    __m256 best_closeness = _mm256_set1_ps(-1), best_inverse = _mm256_setzero_ps();
    const float one = static_cast<float>(1 << (16 + range_fraction(format.bits)));
    RangeSums best = sums[0];
    for (int k = 0; k < steps.count; ++k) {
      const __m256 near = closeness(sums[k], inverse_count);
      const __m256 better = less(best_closeness, near);
      const __m256 own = _mm256_set1_ps(static_cast<float>(steps.inverse[k]) / one);
      best_closeness = _mm256_blendv_ps(best_closeness, near, better);
      best_inverse = _mm256_blendv_ps(best_inverse, own, better);
      best.c = _mm256_blendv_ps(best.c, sums[k].c, better);
      best.xc = _mm256_blendv_ps(best.xc, sums[k].xc, better);
    }
    store_unbiased(best, static_cast<float>(groups.n), inverse_count, middle, unit,
                   _mm256_mul_ps(best_inverse, inverse_unit), format.scale_bits, levels, expected,
                   grids);

    const __m256 spread = less(_mm256_set1_ps(std::numeric_limits<float>::min()), step);
    const int constant = _mm256_movemask_ps(spread) ^ 0xff;
    if (constant == 0) return;
    Grids constants;
    store_nearest(stored_range(low, high, levels, format.scale_bits, expected), constants);
    for (Index group = 0; group < groups.count; ++group)
      if (constant >> group & 1) grids.take(group, constants);
  }

  /// Sums for each part of the range. Where numbers are all the same, or none, so are sums.
  template <int Parts>
  SQUAT_AVX2_INLINE static void add_up_parts(const Groups& groups, int bits, const float* middles,
                                             const float* inverse_units, RangeSums* out) {
    const __m256i ones = _mm256_set1_epi16(1), least = _mm256_set1_epi16(-range_units);
    const __m256i end = _mm256_set1_epi16(static_cast<short>((1 << bits) / 2 - 1));
    const __m256i begin = _mm256_set1_epi16(static_cast<short>(-((1 << bits) / 2)));
    const __m128i fraction = _mm_cvtsi32_si128(range_fraction(bits));
    __m256i inverses[Parts];
    SQUAT_UNROLL
    for (int k = 0; k < Parts; ++k) inverses[k] = _mm256_set1_epi16(range_steps(bits).inverse[k]);

    // Of each group: sums of x, x^2, and for each part those of codes, codes^2 and x * code.
    __m256i all[2 + 3 * Parts][8];
    for (Index group = 0; group < groups.count; ++group) {
      const __m256 middle = _mm256_broadcast_ss(middles + group);
      const __m256 inverse_unit = _mm256_broadcast_ss(inverse_units + group);
      const float* const own = groups[group];
      __m256i x = _mm256_setzero_si256(), xx = x, c[Parts], cc[Parts], xc[Parts];
      SQUAT_UNROLL
      for (int k = 0; k < Parts; ++k) c[k] = cc[k] = xc[k] = _mm256_setzero_si256();
      for (Index i = 0; i < groups.n; i += 16) {
        const __m256i second =
            i + 8 < groups.n ? to_units(own + i + 8, middle, inverse_unit) : _mm256_setzero_si256();
        const __m256i units =
            _mm256_max_epi16(narrow16(to_units(own + i, middle, inverse_unit), second), least);
        x = _mm256_add_epi32(x, _mm256_madd_epi16(units, ones));
        xx = _mm256_add_epi32(xx, _mm256_madd_epi16(units, units));
        SQUAT_UNROLL
        for (int k = 0; k < Parts; ++k) {
          __m256i code = _mm256_sra_epi16(_mm256_mulhi_epi16(units, inverses[k]), fraction);
          code = _mm256_min_epi16(_mm256_max_epi16(code, begin), end);
          c[k] = _mm256_add_epi16(c[k], code);
          cc[k] = _mm256_add_epi32(cc[k], _mm256_madd_epi16(code, code));
          xc[k] = _mm256_add_epi32(xc[k], _mm256_madd_epi16(code, units));
        }
      }
      all[0][group] = x;
      all[1][group] = xx;
      SQUAT_UNROLL
      for (int k = 0; k < Parts; ++k) {
        all[2 + 3 * k][group] = _mm256_madd_epi16(c[k], ones);
        all[3 + 3 * k][group] = cc[k];
        all[4 + 3 * k][group] = xc[k];
      }
    }
    for (auto& sums : all) fill(sums, groups.count);
    const __m256 x = total(all[0], groups.count), xx = total(all[1], groups.count);
    SQUAT_UNROLL
    for (int k = 0; k < Parts; ++k)
      out[k] = {x, xx, total(all[2 + 3 * k], groups.count), total(all[3 + 3 * k], groups.count),
                total(all[4 + 3 * k], groups.count)};
  }

  SQUAT_AVX2_INLINE static __m256i to_units(const float* x, __m256 middle, __m256 inverse_unit) {
    const __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x), middle);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_mul_ps(y, inverse_unit), _mm256_set1_ps(range_units)));
  }

  SQUAT_AVX2_INLINE static __m256 without_means(__m256 sum, __m256 a, __m256 b,
                                                __m256 inverse_count) {
    return _mm256_sub_ps(sum, product(product(a, b), inverse_count));
  }

  SQUAT_AVX2_INLINE static __m256 closeness(const RangeSums& sums, __m256 inverse_count) {
    const __m256 xc = without_means(sums.xc, sums.x, sums.c, inverse_count);
    const __m256 cc = without_means(sums.cc, sums.c, sums.c, inverse_count);
    return if_positive(cc, _mm256_div_ps(_mm256_mul_ps(xc, xc), cc));
  }

  /// unbiased_grid
  SQUAT_AVX2_INLINE static void store_unbiased(const RangeSums& sums, float count,
                                               __m256 inverse_count, __m256 middle, __m256 unit,
                                               __m256 inverse_step, int scale_bits, float levels,
                                               float expected, Grids& grids) {
    const __m256 half = _mm256_set1_ps(levels / 2);
    const __m256 xx = without_means(sums.xx, sums.x, sums.x, inverse_count);
    const __m256 xc = without_means(sums.xc, sums.x, sums.c, inverse_count);
    const __m256 scale = if_positive(xc, _mm256_mul_ps(_mm256_div_ps(xx, xc), unit));
    const __m256 codes = _mm256_add_ps(sums.c, _mm256_set1_ps(count * 0.5f));
    const __m256 rest = _mm256_sub_ps(product(sums.x, unit), product(scale, codes));
    const __m256 wanted = _mm256_add_ps(middle, product(rest, inverse_count));
    Affines affines;
    if (scale_bits == 8) {
      affines = stored_affine8(scale, wanted, levels, expected);
    } else {
      affines.scale = or_zero(as_stored(scale, scale_bits));
      affines.zero = as_stored(_mm256_sub_ps(wanted, product(half, affines.scale)), scale_bits);
    }
    const __m256 stored = _mm256_add_ps(affines.zero, product(half, affines.scale));
    const __m256 ratio = _mm256_div_ps(scale, affines.scale);
    _mm256_store_ps(grids.scale, affines.scale);
    _mm256_store_ps(grids.zero, affines.zero);
    _mm256_store_ps(grids.shift, _mm256_add_ps(middle, _mm256_sub_ps(stored, wanted)));
    _mm256_store_ps(grids.inverse, if_positive(affines.scale, _mm256_mul_ps(inverse_step, ratio)));
    _mm256_store_ps(grids.origin, half);
  }
};

}  // namespace squat::simd

#endif
