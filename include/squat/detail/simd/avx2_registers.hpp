// Registers of 256 bits: what all AVX2 versions share.
#pragma once

#include <cstring>
#include <squat/detail/simd/portable.hpp>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SQUAT_HAVE_AVX2 1

#include <immintrin.h>

// The compiler may use these instructions in the functions so marked, whatever the rest of the
// program is compiled for; simd/dispatch.hpp calls them only where the machine has them.
#define SQUAT_AVX2 __attribute__((target("avx2,fma,f16c")))
#define SQUAT_AVX2_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace squat::detail::simd {

struct Avx2Registers {
  SQUAT_AVX2_INLINE static __m128i load64(const void* p) {
    return _mm_loadl_epi64(static_cast<const __m128i*>(p));
  }
  SQUAT_AVX2_INLINE static __m128i load128(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  SQUAT_AVX2_INLINE static __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  SQUAT_AVX2_INLINE static void store256(void* p, __m256i x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x);
  }
  SQUAT_AVX2_INLINE static float horizontal_max(__m256 x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }
  SQUAT_AVX2_INLINE static float horizontal_sum(__m256 x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }

  /// e^x for x <= 0, 0 below the smallest normal result. Relative error under 3e-7:
  /// x = k ln 2 + r, |r| <= ln 2 / 2; a polynomial (minimax, degree 5) gives e^r.
  SQUAT_AVX2_INLINE static __m256 exp(__m256 x) {
    const __m256 lowest = _mm256_set1_ps(-87.0f);
    const __m256 kept = _mm256_cmp_ps(x, lowest, _CMP_GE_OQ);
    x = _mm256_max_ps(x, lowest);
    // The sum has no room for a fraction, and its lowest bits are those of k.
    const __m256 units = _mm256_set1_ps(1.5f * (1 << 23));
    const __m256 rounded = _mm256_fmadd_ps(x, _mm256_set1_ps(1.44269504f), units);
    const __m256 k = _mm256_sub_ps(rounded, units);
    __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(k, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(8.31250194e-3f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.18903343e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.66671157e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.99992311e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(rounded), 23);
    return _mm256_and_ps(kept,
                         _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent)));
  }

  /// sum + a b, rounded twice as portable versions do: not a fused multiply-add.
  SQUAT_AVX2_INLINE static __m256 add_product(__m256 sum, __m256 a, __m256 b) {
    return _mm256_add_ps(sum, product(a, b));
  }
  SQUAT_AVX2_INLINE static __m256 product(__m256 a, __m256 b) {
    __m256 ab = _mm256_mul_ps(a, b);
    __asm__("" : "+x"(ab));
    return ab;
  }

  /// Keeps what is summed up in one register: g++ would copy it to another every time. Of a
  /// constant it makes a variable, which g++ would find anew every time.
  SQUAT_AVX2_INLINE static void keep([[maybe_unused]] __m256i& x) { __asm__("" : "+x"(x)); }
  /// Of what was read once, so that g++ does not read it for every use.
  SQUAT_AVX2_INLINE static void keep([[maybe_unused]] __m256& x) { __asm__("" : "+x"(x)); }

  SQUAT_AVX2_INLINE static __m256i round(__m256 x, __m256 factor) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(x, factor));
  }

  /// 8 numbers in 16 bits.
  SQUAT_AVX2_INLINE static __m128i narrow16(__m256i x) {
    return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }

  /// 16 numbers in 16 bits: fours 0, 2, 1, 3, since packing works within 128 bits (see in_order).
  SQUAT_AVX2_INLINE static __m256i narrow16(__m256i first, __m256i second) {
    return _mm256_packs_epi32(first, second);
  }
  SQUAT_AVX2_INLINE static __m256i in_order(__m256i packed) {
    return _mm256_permute4x64_epi64(packed, 0xd8);
  }

  // What reduce() combines lanes by.
  struct AddFloats {
    SQUAT_AVX2_INLINE static __m256 of(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
    SQUAT_AVX2_INLINE static __m128 of(__m128 a, __m128 b) { return _mm_add_ps(a, b); }
  };
  struct MinFloats {
    SQUAT_AVX2_INLINE static __m256 of(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
    SQUAT_AVX2_INLINE static __m128 of(__m128 a, __m128 b) { return _mm_min_ps(a, b); }
  };
  struct MaxFloats {
    SQUAT_AVX2_INLINE static __m256 of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
    SQUAT_AVX2_INLINE static __m128 of(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
  };
  struct AddIntegers {
    SQUAT_AVX2_INLINE static __m256 of(__m256 a, __m256 b) {
      return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
    }
    SQUAT_AVX2_INLINE static __m128 of(__m128 a, __m128 b) {
      return _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(a), _mm_castps_si128(b)));
    }
  };
  struct MaxWords {
    SQUAT_AVX2_INLINE static __m256 of(__m256 a, __m256 b) {
      return _mm256_castsi256_ps(_mm256_max_epi16(_mm256_castps_si256(a), _mm256_castps_si256(b)));
    }
    SQUAT_AVX2_INLINE static __m128 of(__m128 a, __m128 b) {
      return _mm_castsi128_ps(_mm_max_epi16(_mm_castps_si128(a), _mm_castps_si128(b)));
    }
  };

  /// Lane i combines all 32-bit lanes of x[i]; missing rows give what the first gives.
  template <class Operation, int Rows>
  SQUAT_AVX2_INLINE static __m128 reduce(const __m256 (&x)[Rows]) {
    const __m256 b = x[Rows > 1 ? 1 : 0], c = x[Rows > 2 ? 2 : 0], d = x[Rows > 3 ? 3 : 0];
    const __m256 ab = Operation::of(_mm256_unpacklo_ps(x[0], b), _mm256_unpackhi_ps(x[0], b));
    const __m256 cd = Operation::of(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256 all =
        Operation::of(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    return Operation::of(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  }
  template <class Operation, int Rows>
  SQUAT_AVX2_INLINE static __m128i reduce(const __m256i (&x)[Rows]) {
    __m256 lanes[Rows];
    SQUAT_UNROLL
    for (int row = 0; row < Rows; ++row) lanes[row] = _mm256_castsi256_ps(x[row]);
    return _mm_castps_si128(reduce<Operation>(lanes));
  }
};

}  // namespace squat::detail::simd

#endif
