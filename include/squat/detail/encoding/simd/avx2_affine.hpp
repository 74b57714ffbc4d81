// Scales and zero points of eight groups in AVX2.
#pragma once

#include <squat/detail/encoding/simd/encode_kernels.hpp>
#include <squat/detail/simd/avx2.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

/// What affine.hpp does with one group, for up to eight, a lane each and the same to the bit.
struct Avx2Affine : Avx2Registers {
  static constexpr Index most_groups = 8;

  /// CodeGrid of up to eight groups.
  struct alignas(32) Grids {
    float scale[8], zero[8], shift[8], inverse[8], origin[8];

    CodeGrid<float> operator[](Index group) const {
      return {{scale[group], zero[group]}, shift[group], inverse[group], origin[group]};
    }
    void take(Index group, const Grids& from) {
      scale[group] = from.scale[group];
      zero[group] = from.zero[group];
      shift[group] = from.shift[group];
      inverse[group] = from.inverse[group];
      origin[group] = from.origin[group];
    }
  };

  /// `count` groups of n numbers each, 1 to most_groups of them, that begin `stride` apart.
  struct Groups {
    const float* x;
    Index stride;
    Index count;
    Index n;

    const float* operator[](Index group) const { return x + group * stride; }
  };

  // Of eight groups, a lane each.
  struct Extremes {
    __m256 low, high;
  };
  /// GroupSums
  struct RangeSums {
    __m256 x, xx, c, xc;
  };
  struct Sizes {
    __m256 energy, top;  ///< sum of x^2, largest |x|
  };
  /// Of sizes in units, and for each step of those times codes, and of code * (code + 1).
  struct StepSums {
    __m256 x, xc[symmetric_steps], cc[symmetric_steps];
  };

  /// Where there are fewer groups, the first of four again.
  template <class Register>
  SQUAT_AVX2_INLINE static void fill(Register (&x)[8], Index count) {
    for (Index i = count; i % 4 != 0; ++i) x[i] = x[count <= 4 ? 0 : 4];
  }

  /// Lane i combines the lanes of x[i], `count` of them; where only four are filled, the others are
  /// like those.
  template <class Operation, class Register>
  SQUAT_AVX2_INLINE static __m256 combine(Register (&x)[8], Index count) {
    fill(x, count);
    const __m128 low = as_floats(reduce<Operation>({x[0], x[1], x[2], x[3]}));
    if (count <= 4) return _mm256_set_m128(low, low);
    return _mm256_set_m128(as_floats(reduce<Operation>({x[4], x[5], x[6], x[7]})), low);
  }
  SQUAT_AVX2_INLINE static __m128 as_floats(__m128 x) { return x; }
  SQUAT_AVX2_INLINE static __m128 as_floats(__m128i x) { return _mm_castsi128_ps(x); }

  SQUAT_AVX2_INLINE static __m256 total(__m256i (&x)[8], Index count) {
    return _mm256_cvtepi32_ps(_mm256_castps_si256(combine<AddIntegers>(x, count)));
  }

  SQUAT_AVX2_INLINE static __m256 inverse(__m256 x) {
    return _mm256_div_ps(_mm256_set1_ps(1.0f), x);
  }

  /// Of eight groups.
  struct Affines {
    __m256 scale, zero;
  };

  SQUAT_AVX2_INLINE static __m256 within(__m256 x, __m256 limit) {
    return _mm256_min_ps(_mm256_max_ps(x, _mm256_sub_ps(_mm256_setzero_ps(), limit)), limit);
  }

  SQUAT_AVX2_INLINE static __m256 as_stored(__m256 x, int scale_bits) {
    const __m256 most = _mm256_set1_ps(largest_stored(scale_bits));
    x = _mm256_max_ps(_mm256_min_ps(x, most), _mm256_sub_ps(_mm256_setzero_ps(), most));
    return scale_bits == 16 ? _mm256_cvtph_ps(_mm256_cvtps_ph(x, 0)) : x;
  }

  /// Subnormal scales count as zero.
  SQUAT_AVX2_INLINE static __m256 or_zero(__m256 scale) {
    return _mm256_andnot_ps(less(scale, _mm256_set1_ps(std::numeric_limits<float>::min())), scale);
  }

  SQUAT_AVX2_INLINE static __m256 less(__m256 a, __m256 b) {
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
  }

  /// x where a > 0, else zero.
  SQUAT_AVX2_INLINE static __m256 if_positive(__m256 a, __m256 x) {
    return _mm256_and_ps(less(_mm256_setzero_ps(), a), x);
  }

  SQUAT_AVX2_INLINE static Affines stored_range(__m256 low, __m256 high, float max_code,
                                                int scale_bits, __m256 expected) {
    if (scale_bits == 8)
      return stored_affine8(_mm256_mul_ps(_mm256_sub_ps(high, low), _mm256_set1_ps(1 / max_code)),
                            _mm256_mul_ps(_mm256_add_ps(low, high), _mm256_set1_ps(0.5f)), max_code,
                            expected);
    const __m256 zero = as_stored(low, scale_bits);
    const __m256 scale = _mm256_div_ps(_mm256_sub_ps(high, zero), _mm256_set1_ps(max_code));
    return {or_zero(as_stored(_mm256_max_ps(scale, _mm256_setzero_ps()), scale_bits)), zero};
  }

  SQUAT_AVX2_INLINE static Affines stored_affine8(__m256 ideal_scale, __m256 midpoint,
                                                  float max_code, __m256 expected) {
    const __m256 from = _mm256_sub_ps(midpoint, expected);
    const __m256 distance = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), from);
    const float reach = max_code * (float{largest_midpoint} / midpoint_steps);
    const __m256 wide = _mm256_mul_ps(ideal_scale, _mm256_set1_ps(scale_margin(max_code)));
    __m256i bytes =
        to_bytes(_mm256_max_ps(_mm256_mul_ps(distance, _mm256_set1_ps(1 / reach)), wide));
    // One more where the midpoint is still out of reach.
    const __m256i most = _mm256_set1_epi32(largest_scale_byte);
    const __m256 short_of = less(_mm256_mul_ps(from_bytes(bytes), _mm256_set1_ps(reach)), distance);
    bytes = _mm256_sub_epi32(
        bytes, _mm256_and_si256(_mm256_castps_si256(short_of), _mm256_cmpgt_epi32(most, bytes)));
    const __m256 scale = from_bytes(bytes);
    // zero_of_midpoint()
    const __m256 far = _mm256_set1_ps(float{largest_midpoint});
    const __m256 ideal_steps =
        product(_mm256_mul_ps(from, inverse(scale)), _mm256_set1_ps(midpoint_steps / max_code));
    const __m256 steps =
        within(_mm256_round_ps(ideal_steps, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), far);
    const __m256 moved =
        product(steps, _mm256_mul_ps(scale, _mm256_set1_ps(max_code / midpoint_steps)));
    const __m256 zero =
        _mm256_sub_ps(_mm256_add_ps(expected, moved), product(scale, _mm256_set1_ps(max_code / 2)));
    return {scale, _mm256_blendv_ps(expected, zero, less(_mm256_setzero_ps(), scale))};
  }

  /// scale_to_byte and scale_from_byte.
  SQUAT_AVX2_INLINE static __m256i to_bytes(__m256 x) {
    const __m256i small = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(0x1p17f)));
    const __m256i rounded = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(1 << 19));
    const __m256i large = _mm256_min_epu32(
        _mm256_sub_epi32(_mm256_srli_epi32(rounded, 20), _mm256_set1_epi32(112 << 3)),
        _mm256_set1_epi32(largest_scale_byte));
    return _mm256_blendv_epi8(large, small, _mm256_castps_si256(less(x, _mm256_set1_ps(0x1p-14f))));
  }
  SQUAT_AVX2_INLINE static __m256 from_bytes(__m256i bytes) {
    const __m256 small = _mm256_mul_ps(_mm256_cvtepi32_ps(bytes), _mm256_set1_ps(0x1p-17f));
    const __m256 large = _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(bytes, _mm256_set1_epi32(112 << 3)), 20));
    return _mm256_blendv_ps(large, small,
                            _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(8), bytes)));
  }

  /// 8 codes, a byte each.
  SQUAT_AVX2_INLINE static void store64(std::uint8_t* target, __m256i x) {
    const __m128i words = narrow16(x);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(words, words));
  }
};

}  // namespace squat::detail::simd

#endif
