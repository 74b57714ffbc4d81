// Grids around zero of groups of numbers in AVX2.
#pragma once

#include <squat/detail/encoding/simd/avx2_affine.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

struct Avx2Symmetric : Avx2Affine {
 protected:
  /// symmetric_codes, but for the codes.
  SQUAT_AVX2_INLINE static void find_symmetric(const Groups& groups, int bits, int scale_bits,
                                               Grids& grids) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 squares[8], tops[8];
    for (Index group = 0; group < groups.count; ++group) {
      const float* const own = groups[group];
      __m256 square = _mm256_setzero_ps(), top = square;
      for (Index i = 0; i < groups.n; i += 8) {
        const __m256 xi = _mm256_loadu_ps(own + i);
        square = add_product(square, xi, xi);
        top = _mm256_max_ps(_mm256_andnot_ps(sign, xi), top);
      }
      squares[group] = square;
      tops[group] = top;
    }
    fill(squares, groups.count);
    fill(tops, groups.count);
    const float max_code = static_cast<float>((1 << bits) - 1);
    const __m256 energy = combine<AddFloats>(squares, groups.count);
    const __m256 top = combine<MaxFloats>(tops, groups.count);
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

    __m256 products[symmetric_steps], sizes[symmetric_steps];
    add_up_steps(groups, bits, inverse_units, inverses, products, sizes);
    __m256 best = _mm256_setzero_ps(), best_inverse = best, best_product = _mm256_set1_ps(1.0f);
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      const __m256 cosine = _mm256_div_ps(_mm256_mul_ps(products[k], products[k]), sizes[k]);
      const __m256 better = less(best, cosine);
      best = _mm256_blendv_ps(best, cosine, better);
      best_inverse =
          _mm256_blendv_ps(best_inverse, _mm256_cvtepi32_ps(load256(inverses[k])), better);
      best_product = _mm256_blendv_ps(best_product, products[k], better);
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

 private:
  /// Twice the sums of x * code, in units, and four times those of code^2, codes counted from the
  /// midpoint, for each step.
  SQUAT_AVX2_INLINE static void add_up_steps(const Groups& groups, int bits,
                                             const float* inverse_units,
                                             const std::int32_t (&inverses)[symmetric_steps][8],
                                             __m256* products, __m256* sizes) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i last = _mm256_set1_epi16(static_cast<short>((1 << bits) / 2 - 1));
    const __m128i fraction = _mm_cvtsi32_si128(symmetric_fraction(bits));
    __m256i all[1 + 2 * symmetric_steps][8];
    for (Index group = 0; group < groups.count; ++group) {
      const __m256 inverse_unit = _mm256_broadcast_ss(inverse_units + group);
      const float* const own = groups[group];
      __m256i inverse[symmetric_steps], xc[symmetric_steps], cc[symmetric_steps];
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        inverse[k] = _mm256_set1_epi16(static_cast<short>(inverses[k][group]));
        xc[k] = cc[k] = _mm256_setzero_si256();
      }
      __m256i sum = _mm256_setzero_si256();
      for (Index i = 0; i < groups.n; i += 16) {
        const __m256i second =
            i + 8 < groups.n ? size_units(own + i + 8, inverse_unit) : _mm256_setzero_si256();
        const __m256i units = narrow16(size_units(own + i, inverse_unit), second);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(units, ones));
        SQUAT_UNROLL
        for (int k = 0; k < symmetric_steps; ++k) {
          __m256i code = _mm256_srl_epi16(_mm256_mulhi_epu16(units, inverse[k]), fraction);
          code = _mm256_min_epi16(code, last);
          xc[k] = _mm256_add_epi32(xc[k], _mm256_madd_epi16(code, units));
          cc[k] = _mm256_add_epi32(cc[k], _mm256_madd_epi16(code, _mm256_add_epi16(code, ones)));
        }
      }
      all[0][group] = sum;
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        all[1 + 2 * k][group] = xc[k];
        all[2 + 2 * k][group] = cc[k];
      }
    }
    for (auto& sums : all) fill(sums, groups.count);
    const __m256 sum = total(all[0], groups.count);
    const __m256 numbers = _mm256_set1_ps(static_cast<float>(groups.n));
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      products[k] = add_product(sum, _mm256_set1_ps(2), total(all[1 + 2 * k], groups.count));
      sizes[k] = add_product(numbers, _mm256_set1_ps(4), total(all[2 + 2 * k], groups.count));
    }
  }

  SQUAT_AVX2_INLINE static __m256i size_units(const float* x, __m256 inverse_unit) {
    const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x));
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_mul_ps(size, inverse_unit), _mm256_set1_ps(symmetric_units)));
  }
};

}  // namespace squat::detail::simd

#endif
