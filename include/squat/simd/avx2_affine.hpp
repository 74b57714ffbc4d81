// Scales and zero points of four groups in AVX2.
#pragma once

#include <squat/simd/avx2.hpp>
#include <squat/simd/encode_kernels.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

/// What affine.hpp does with one group, for four, a lane each and the same to the bit.
struct Avx2Affine : Avx2Registers {
 protected:
  /// Of four groups.
  struct Affines {
    __m128 scale, zero;
  };

  SQUAT_AVX2_INLINE static __m128 within(__m128 x, __m128 limit) {
    return _mm_min_ps(_mm_max_ps(x, _mm_sub_ps(_mm_setzero_ps(), limit)), limit);
  }

  SQUAT_AVX2_INLINE static __m128 as_stored(__m128 x, int scale_bits) {
    const __m128 most = _mm_set1_ps(largest_stored(scale_bits));
    x = _mm_max_ps(_mm_min_ps(x, most), _mm_sub_ps(_mm_setzero_ps(), most));
    return scale_bits == 16 ? _mm_cvtph_ps(_mm_cvtps_ph(x, 0)) : x;
  }

  /// Subnormal scales count as zero.
  SQUAT_AVX2_INLINE static __m128 or_zero(__m128 scale) {
    return _mm_andnot_ps(_mm_cmplt_ps(scale, _mm_set1_ps(std::numeric_limits<float>::min())),
                         scale);
  }

  /// x where a > 0, else zero.
  SQUAT_AVX2_INLINE static __m128 if_positive(__m128 a, __m128 x) {
    return _mm_and_ps(_mm_cmpgt_ps(a, _mm_setzero_ps()), x);
  }

  SQUAT_AVX2_INLINE static Affines stored_range(__m128 low, __m128 high, float levels,
                                                int scale_bits, float expected) {
    if (scale_bits == 8)
      return stored_affine8(_mm_mul_ps(_mm_sub_ps(high, low), _mm_set1_ps(1 / levels)),
                            _mm_mul_ps(_mm_add_ps(low, high), _mm_set1_ps(0.5f)), levels, expected);
    const __m128 zero = as_stored(low, scale_bits);
    const __m128 scale = _mm_div_ps(_mm_sub_ps(high, zero), _mm_set1_ps(levels));
    return {or_zero(as_stored(_mm_max_ps(scale, _mm_setzero_ps()), scale_bits)), zero};
  }

  SQUAT_AVX2_INLINE static Affines stored_affine8(__m128 ideal_scale, __m128 middle, float levels,
                                                  float expected) {
    const __m128 from = _mm_sub_ps(middle, _mm_set1_ps(expected));
    const __m128 distance = _mm_andnot_ps(_mm_set1_ps(-0.0f), from);
    const float reach = levels * (float{largest_middle} / middle_steps);
    __m128i bytes = to_bytes(_mm_max_ps(_mm_mul_ps(distance, _mm_set1_ps(1 / reach)), ideal_scale));
    // One more where the middle is still out of reach.
    const __m128i most = _mm_set1_epi32(largest_scale_byte);
    const __m128 short_of =
        _mm_cmplt_ps(_mm_mul_ps(from_bytes(bytes), _mm_set1_ps(reach)), distance);
    bytes = _mm_sub_epi32(bytes,
                          _mm_and_si128(_mm_castps_si128(short_of), _mm_cmplt_epi32(bytes, most)));
    const __m128 scale = from_bytes(bytes);
    // zero_of_middle()
    const __m128 far = _mm_set1_ps(float{largest_middle}), magic = _mm_set1_ps(12582912.0f);
    const __m128 ideal_steps = product(_mm_mul_ps(from, _mm_div_ps(_mm_set1_ps(1.0f), scale)),
                                       _mm_set1_ps(middle_steps / levels));
    const __m128 steps = within(_mm_sub_ps(_mm_add_ps(ideal_steps, magic), magic), far);
    const __m128 moved = product(steps, _mm_mul_ps(scale, _mm_set1_ps(levels / middle_steps)));
    const __m128 expecteds = _mm_set1_ps(expected);
    const __m128 zero =
        _mm_sub_ps(_mm_add_ps(expecteds, moved), product(scale, _mm_set1_ps(levels / 2)));
    return {scale, _mm_blendv_ps(expecteds, zero, _mm_cmpgt_ps(scale, _mm_setzero_ps()))};
  }

  /// scale_to_byte and scale_from_byte.
  SQUAT_AVX2_INLINE static __m128i to_bytes(__m128 x) {
    const __m128i small = _mm_cvtps_epi32(_mm_mul_ps(x, _mm_set1_ps(0x1p17f)));
    const __m128i rounded = _mm_add_epi32(_mm_castps_si128(x), _mm_set1_epi32(1 << 19));
    const __m128i large =
        _mm_min_epu32(_mm_sub_epi32(_mm_srli_epi32(rounded, 20), _mm_set1_epi32(112 << 3)),
                      _mm_set1_epi32(largest_scale_byte));
    return _mm_blendv_epi8(large, small, _mm_castps_si128(_mm_cmplt_ps(x, _mm_set1_ps(0x1p-14f))));
  }
  SQUAT_AVX2_INLINE static __m128 from_bytes(__m128i bytes) {
    const __m128 small = _mm_mul_ps(_mm_cvtepi32_ps(bytes), _mm_set1_ps(0x1p-17f));
    const __m128 large =
        _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(bytes, _mm_set1_epi32(112 << 3)), 20));
    return _mm_blendv_ps(large, small, _mm_castsi128_ps(_mm_cmplt_epi32(bytes, _mm_set1_epi32(8))));
  }

  /// sum + a b, rounded twice as the portable version does: not a fused multiply-add.
  SQUAT_AVX2_INLINE static __m256 add_product(__m256 sum, __m256 a, __m256 b) {
    return _mm256_add_ps(sum, product(a, b));
  }
  SQUAT_AVX2_INLINE static __m256 product(__m256 a, __m256 b) {
    __m256 ab = _mm256_mul_ps(a, b);
    __asm__("" : "+x"(ab));
    return ab;
  }
  SQUAT_AVX2_INLINE static __m128 product(__m128 a, __m128 b) {
    __m128 ab = _mm_mul_ps(a, b);
    __asm__("" : "+x"(ab));
    return ab;
  }
};

}  // namespace squat::simd

#endif
