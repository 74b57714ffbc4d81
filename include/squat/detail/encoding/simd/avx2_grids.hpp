// Grids of groups of numbers in AVX2, up to eight groups side by side.
#pragma once

#include <squat/detail/encoding/simd/avx2_symmetric.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

/// What finding a grid takes is mostly waiting: for sums, and for divisions. Eight groups wait
/// together, a lane each. Every number is that of the portable version, to the bit.
template <class Loops>
struct Avx2Grids : Avx2Affine {
  /// What find_grids() wants to know of groups of n numbers, a logarithm: once for many of them.
  static std::int16_t inverse_step_for(const GroupFormat& format, Index n) {
    return format.fit == ScaleFit::unbiased ? inverse_range_step(format.bits, n) : std::int16_t{0};
  }

  /// `inverse_step` is inverse_step_for() groups.n numbers, `expected` a number for each group.
  SQUAT_AVX2 static void find_grids(const Groups& groups, const GroupFormat& format,
                                    std::int16_t inverse_step, __m256 expected, Grids& grids) {
    if (format.fit == ScaleFit::symmetric)
      return Avx2Symmetric<Loops>::find_symmetric(groups, format.bits, format.scale_bits, grids);
    const Extremes extremes = Loops::extremes(groups);
    const __m256 limit = _mm256_set1_ps(static_cast<float>(largest_storable(format.scale_bits)));
    const __m256 low = within(extremes.low, limit);
    const __m256 high = within(extremes.high, limit);
    if (format.fit == ScaleFit::unbiased)
      find_unbiased(groups, format, inverse_step, low, high, expected, grids);
    else
      store_nearest(stored_range(low, high, static_cast<float>((1 << format.bits) - 1),
                                 format.scale_bits, expected),
                    grids);
  }

 private:
  SQUAT_AVX2_INLINE static void store_nearest(const Affines& affines, Grids& grids) {
    _mm256_store_ps(grids.scale, affines.scale);
    _mm256_store_ps(grids.zero, affines.zero);
    _mm256_store_ps(grids.shift, affines.zero);
    _mm256_store_ps(grids.inverse, if_positive(affines.scale, inverse(affines.scale)));
    _mm256_store_ps(grids.origin, _mm256_setzero_ps());
  }

  /// unbiased_codes, but for the codes.
  SQUAT_AVX2_INLINE static void find_unbiased(const Groups& groups, const GroupFormat& format,
                                              std::int16_t inverse_step, __m256 low, __m256 high,
                                              __m256 expected, Grids& grids) {
    const float max_code = static_cast<float>((1 << format.bits) - 1);
    const __m256 range = _mm256_sub_ps(high, low);
    const __m256 step = _mm256_mul_ps(range, _mm256_set1_ps(1 / max_code));
    const __m256 midpoint = _mm256_mul_ps(_mm256_add_ps(low, high), _mm256_set1_ps(0.5f));
    const __m256 unit = _mm256_mul_ps(range, _mm256_set1_ps(0.5f / range_units));
    alignas(32) float midpoints[8], inverse_units[8];
    _mm256_store_ps(midpoints, midpoint);
    const __m256 inverse_unit = inverse(unit);
    _mm256_store_ps(inverse_units, inverse_unit);

    const RangeSums sums =
        Loops::range_sums(groups, format.bits, inverse_step, midpoints, inverse_units);
    const float one = static_cast<float>(1 << (16 + range_fraction(format.bits)));
    store_unbiased(
        sums, static_cast<float>(groups.n), midpoint, unit,
        _mm256_mul_ps(_mm256_set1_ps(static_cast<float>(inverse_step) / one), inverse_unit),
        format.scale_bits, max_code, expected, grids);

    const __m256 spread = less(_mm256_set1_ps(std::numeric_limits<float>::min()), step);
    const int constant = _mm256_movemask_ps(spread) ^ 0xff;
    if (constant == 0) return;
    Grids constants;
    store_nearest(stored_range(low, high, max_code, format.scale_bits, expected), constants);
    for (Index group = 0; group < groups.count; ++group)
      if (constant >> group & 1) grids.take(group, constants);
  }

  SQUAT_AVX2_INLINE static __m256 without_means(__m256 sum, __m256 a, __m256 b,
                                                __m256 inverse_count) {
    return _mm256_sub_ps(sum, product(product(a, b), inverse_count));
  }

  /// unbiased_grid
  SQUAT_AVX2_INLINE static void store_unbiased(const RangeSums& sums, float count, __m256 midpoint,
                                               __m256 unit, __m256 inverse_step, int scale_bits,
                                               float max_code, __m256 expected, Grids& grids) {
    const __m256 inverse_count = _mm256_set1_ps(1 / count);
    const __m256 half = _mm256_set1_ps(max_code / 2);
    const __m256 xx = without_means(sums.xx, sums.x, sums.x, inverse_count);
    const __m256 xc = without_means(sums.xc, sums.x, sums.c, inverse_count);
    const __m256 scale = if_positive(xc, _mm256_mul_ps(_mm256_div_ps(xx, xc), unit));
    const __m256 codes = _mm256_add_ps(sums.c, _mm256_set1_ps(count * 0.5f));
    const __m256 rest = _mm256_sub_ps(product(sums.x, unit), product(scale, codes));
    const __m256 wanted = _mm256_add_ps(midpoint, product(rest, inverse_count));
    Affines affines;
    if (scale_bits == 8) {
      affines = stored_affine8(scale, wanted, max_code, expected);
    } else {
      affines.scale = or_zero(as_stored(scale, scale_bits));
      affines.zero = as_stored(_mm256_sub_ps(wanted, product(half, affines.scale)), scale_bits);
    }
    const __m256 stored = _mm256_add_ps(affines.zero, product(half, affines.scale));
    const __m256 ratio = _mm256_div_ps(scale, affines.scale);
    _mm256_store_ps(grids.scale, affines.scale);
    _mm256_store_ps(grids.zero, affines.zero);
    _mm256_store_ps(grids.shift, _mm256_add_ps(midpoint, _mm256_sub_ps(stored, wanted)));
    _mm256_store_ps(grids.inverse, if_positive(affines.scale, _mm256_mul_ps(inverse_step, ratio)));
    _mm256_store_ps(grids.origin, half);
  }
};

}  // namespace squat::detail::simd

#endif
