// Grids around zero of groups of numbers in AVX2.
#pragma once

#include <squat/detail/encoding/simd/avx2_affine.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

template <class Loops>
struct Avx2Symmetric : Avx2Affine {
  /// symmetric_codes, but for the codes.
  SQUAT_AVX2_INLINE static void find_symmetric(const Groups& groups, int bits, int scale_bits,
                                               Grids& grids) {
    const Sizes sizes = Loops::sizes(groups);
    const __m256 energy = sizes.energy, top = sizes.top;
    const float max_code = static_cast<float>((1 << bits) - 1);
    const __m256 unit = _mm256_mul_ps(top, _mm256_set1_ps(1.0f / symmetric_units));
    const __m256 numbers = _mm256_set1_ps(static_cast<float>(groups.n));
    const __m256 step = _mm256_mul_ps(_mm256_set1_ps(normal_step(bits)),
                                      _mm256_sqrt_ps(_mm256_div_ps(energy, numbers)));
    const __m256 steps[symmetric_steps] = {
        step, _mm256_mul_ps(step, _mm256_set1_ps(0.86f)),
        _mm256_mul_ps(step, _mm256_set1_ps(1.16f)),
        _mm256_div_ps(_mm256_add_ps(top, top), _mm256_set1_ps(max_code))};
    const __m256 one = _mm256_set1_ps(static_cast<float>(1 << (16 + symmetric_fraction(bits))));
    alignas(32) std::int32_t inverses[symmetric_steps][8];
    alignas(32) float inverse_units[8];
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      const __m256 ideal = _mm256_mul_ps(_mm256_div_ps(unit, steps[k]), one);
      store256(inverses[k], _mm256_cvtps_epi32(_mm256_min_ps(ideal, _mm256_set1_ps(65535))));
    }
    const __m256 inverse_unit = inverse(unit);
    _mm256_store_ps(inverse_units, inverse_unit);

    const StepSums sums = Loops::step_sums(groups, bits, inverse_units, inverses);
    __m256 best = _mm256_setzero_ps(), best_inverse = best, best_product = _mm256_set1_ps(1.0f);
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      // Twice the sum of x * code and four times that of code^2, codes counted from the midpoint.
      const __m256 xc = add_product(sums.x, _mm256_set1_ps(2), sums.xc[k]);
      const __m256 cc = add_product(numbers, _mm256_set1_ps(4), sums.cc[k]);
      const __m256 cosine = _mm256_div_ps(_mm256_mul_ps(xc, xc), cc);
      const __m256 better = less(best, cosine);
      best = _mm256_blendv_ps(best, cosine, better);
      best_inverse =
          _mm256_blendv_ps(best_inverse, _mm256_cvtepi32_ps(load256(inverses[k])), better);
      best_product = _mm256_blendv_ps(best_product, xc, better);
    }

    const __m256 half_unit = _mm256_mul_ps(unit, _mm256_set1_ps(0.5f));
    const __m256 scale = _mm256_div_ps(energy, _mm256_mul_ps(best_product, half_unit));
    __m256 stored = _mm256_max_ps(_mm256_setzero_ps(), scale);
    const __m256 wide = _mm256_mul_ps(stored, _mm256_set1_ps(scale_margin(max_code)));
    stored = scale_bits == 8 ? from_bytes(to_bytes(wide)) : as_stored(stored, scale_bits);
    const __m256 spread = less(_mm256_set1_ps(std::numeric_limits<float>::min()), energy);
    const __m256 best_inverse_step =
        _mm256_mul_ps(_mm256_mul_ps(best_inverse, inverse(one)), inverse_unit);
    const __m256 following = _mm256_mul_ps(_mm256_div_ps(scale, stored), best_inverse_step);
    _mm256_store_ps(grids.scale, _mm256_and_ps(spread, stored));
    _mm256_store_ps(grids.zero, _mm256_setzero_ps());
    _mm256_store_ps(grids.shift, _mm256_setzero_ps());
    _mm256_store_ps(grids.inverse, _mm256_and_ps(spread, if_positive(stored, following)));
    _mm256_store_ps(grids.origin, _mm256_and_ps(spread, _mm256_set1_ps(max_code / 2)));
  }
};

}  // namespace squat::detail::simd

#endif
