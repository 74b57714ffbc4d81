// Registers of 512 bits: what all AVX-512 versions share.
#pragma once

#include <cstring>
#include <squat/detail/simd/portable.hpp>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SQUAT_HAVE_AVX512 1

#include <immintrin.h>

// As SQUAT_AVX2 in simd/avx2.hpp.
#define SQUAT_AVX512 \
  __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define SQUAT_AVX512_INLINE SQUAT_AVX512 __attribute__((always_inline)) inline

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::detail::simd {

struct Avx512Registers {
  // What reduce() combines lanes by.
  struct AddFloats {
    SQUAT_AVX512_INLINE static __m512 of(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  };
  struct MaxFloats {
    SQUAT_AVX512_INLINE static __m512 of(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
  };
  /// Of floats that are not negative, whose bits are in their order: sooner there than MaxFloats.
  struct MaxPositives {
    SQUAT_AVX512_INLINE static __m512 of(__m512 a, __m512 b) {
      return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    }
  };
  struct AddIntegers {
    SQUAT_AVX512_INLINE static __m512 of(__m512 a, __m512 b) {
      return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    }
  };
  struct MaxWords {
    SQUAT_AVX512_INLINE static __m512 of(__m512 a, __m512 b) {
      return _mm512_castsi512_ps(_mm512_max_epi16(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    }
  };

  template <class Operation>
  SQUAT_AVX512_INLINE static float reduce(__m512 x) {
    x = Operation::of(x, _mm512_shuffle_f32x4(x, x, 0x4e));
    x = Operation::of(x, _mm512_shuffle_f32x4(x, x, 0xb1));
    x = Operation::of(x, _mm512_shuffle_ps(x, x, 0x4e));
    return _mm_cvtss_f32(_mm512_castps512_ps128(Operation::of(x, _mm512_shuffle_ps(x, x, 0xb1))));
  }

  /// Lanes h, 4 + h, 8 + h and 12 + h are four parts of reduce(x[h]), one of each quarter of the
  /// register; missing heads give what the first gives.
  template <class Operation, int Heads>
  SQUAT_AVX512_INLINE static __m512 interleave(const __m512 (&x)[Heads]) {
    const __m512 b = x[Heads > 1 ? 1 : 0], c = x[Heads > 2 ? 2 : 0], d = x[Heads > 3 ? 3 : 0];
    const __m512 ab =
        Operation::of(_mm512_unpacklo_ps(x[0], b), _mm512_unpackhi_ps(x[0], b));  // a b a b ...
    const __m512 cd = Operation::of(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    return Operation::of(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  }

  /// Lane h is reduce(x[h]); missing heads give what the first gives.
  template <class Operation, int Heads>
  SQUAT_AVX512_INLINE static __m128 reduce(const __m512 (&x)[Heads]) {
    __m512 all = interleave<Operation>(x);
    all = Operation::of(all, _mm512_shuffle_f32x4(all, all, 0x4e));
    all = Operation::of(all, _mm512_shuffle_f32x4(all, all, 0xb1));
    return _mm512_castps512_ps128(all);
  }
  template <class Operation, int Heads>
  SQUAT_AVX512_INLINE static __m128i reduce(const __m512i (&x)[Heads]) {
    __m512 lanes[Heads];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) lanes[h] = _mm512_castsi512_ps(x[h]);
    return _mm_castps_si128(reduce<Operation>(lanes));
  }

  SQUAT_AVX512_INLINE static __m128i load128(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  SQUAT_AVX512_INLINE static __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  SQUAT_AVX512_INLINE static __mmask16 first_lanes(Index count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
  }
  /// 16 floats; of a tail only the first `left`, then zeros.
  template <bool Tail>
  SQUAT_AVX512_INLINE static __m512 load(const float* p, Index left) {
    if constexpr (Tail) return _mm512_maskz_loadu_ps(first_lanes(left), p);
    return _mm512_loadu_ps(p);
  }

  SQUAT_AVX512_INLINE static __m512i round(__m512 x, __m512 factor) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
  }

  /// 32 numbers in 16 bits: quads 0, 4, 1, 5, 2, 6, 3, 7 (see in_order).
  SQUAT_AVX512_INLINE static __m512i narrow16(__m512i first, __m512i second) {
    return _mm512_packs_epi32(first, second);
  }

  /// Puts in order what packing within 128 bits left.
  SQUAT_AVX512_INLINE static __m512i in_order(__m512i packed) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed);
  }

  /// e^x for x <= 0, 0 where x < -87 or is no number. Relative error under 3e-7: x = k ln 2 + r,
  /// |r| <= ln 2 / 2; a polynomial (minimax, degree 5) gives e^r.
  SQUAT_AVX512_INLINE static __m512 exp(__m512 x) {
    const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ);
    const __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(k, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(8.3125019e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1890334e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66671157e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.99992311e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(kept, p, k);
  }

  /// sum + a b, rounded twice as portable versions do: not a fused multiply-add.
  SQUAT_AVX512_INLINE static __m512 add_product(__m512 sum, __m512 a, __m512 b) {
    return _mm512_add_ps(sum, product(a, b));
  }
  SQUAT_AVX512_INLINE static __m512 product(__m512 a, __m512 b) {
    __m512 ab = _mm512_mul_ps(a, b);
    __asm__("" : "+v"(ab));
    return ab;
  }

  /// Adds the products of four unsigned with four signed bytes to every 32-bit lane.
  SQUAT_AVX512_INLINE static void add_products(__m512i& sums, __m512i bytes, __m512i operands) {
    sums = _mm512_dpbusd_epi32(sums, bytes, operands);
    __asm__("" : "+v"(sums));  // or g++ copies sums from one register to another every time
  }

  /// Lane r of dots[q] is rows[r] . queries[q], for rows of n floats that are `stride` apart.
  template <int Rows, int Queries>
  SQUAT_AVX512_INLINE static void dot(const float* rows, Index stride, const float* queries,
                                      Index n, __m128 (&dots)[Queries]) {
    __m512 parts[Queries][Rows];
    SQUAT_UNROLL
    for (int k = 0; k < Queries * Rows; ++k) parts[k / Rows][k % Rows] = _mm512_setzero_ps();
    Index i = 0;
    for (; i + 16 <= n; i += 16) add_dots<false>(rows + i, stride, queries + i, n, 16, parts);
    if (i < n) add_dots<true>(rows + i, stride, queries + i, n, n - i, parts);
    SQUAT_UNROLL
    for (int q = 0; q < Queries; ++q) dots[q] = reduce<AddFloats>(parts[q]);
  }

 private:
  template <bool Tail, int Rows, int Queries>
  SQUAT_AVX512_INLINE static void add_dots(const float* rows, Index stride, const float* queries,
                                           Index n, Index left, __m512 (&parts)[Queries][Rows]) {
    __m512 query[Queries];
    SQUAT_UNROLL
    for (int q = 0; q < Queries; ++q) query[q] = load<Tail>(queries + q * n, left);
    SQUAT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m512 row = load<Tail>(rows + r * stride, left);
      SQUAT_UNROLL
      for (int q = 0; q < Queries; ++q) parts[q][r] = _mm512_fmadd_ps(row, query[q], parts[q][r]);
    }
  }
};

}  // namespace squat::detail::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
