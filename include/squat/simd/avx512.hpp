// The operations in AVX-512: F, BW, VL, DQ and VNNI.
#pragma once

#include <squat/simd/avx2.hpp>
#include <squat/simd/avx512_dot.hpp>
#include <squat/simd/avx512_fold.hpp>

#if defined(SQUAT_HAVE_AVX512)

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::simd {

struct Avx512 : Avx512Registers {
  SQUAT_AVX512 static void exponentiate(float* scores, Index stride, Index rows, Index n,
                                        float* highest, float* sums) {
    for (Index row = 0; row < rows; ++row)
      sums[row] = exponentiate_row(scores + row * stride, n, highest[row]);
  }

  SQUAT_AVX512 static void dot_rows(const float* rows, Index count, Index n, const float* query,
                                    float* scores) {
    for (Index r = 0; r < count; r += 4) {
      const Index left = count - r;
      const __m128 sums = left >= 4   ? dot4<4>(rows + r * n, n, query, n)
                          : left == 3 ? dot4<3>(rows + r * n, n, query, n)
                          : left == 2 ? dot4<2>(rows + r * n, n, query, n)
                                      : dot4<1>(rows + r * n, n, query, n);
      _mm_mask_storeu_ps(scores + r, static_cast<__mmask8>(left >= 4 ? 15 : (1 << left) - 1), sums);
    }
  }

  SQUAT_AVX512 static void add_rows(const float* rows, Index count, Index n, const float* weights,
                                    float* out) {
    Index i = 0;
    for (; i + 64 <= n; i += 64) add_columns<4>(rows + i, count, n, weights, out + i);
    for (; i + 16 <= n; i += 16) add_columns<1>(rows + i, count, n, weights, out + i);
    if (i < n) {
      __m256 sum = _mm256_loadu_ps(out + i);
      for (Index r = 0; r < count; ++r)
        sum = _mm256_fmadd_ps(_mm256_set1_ps(weights[r]), _mm256_loadu_ps(rows + r * n + i), sum);
      _mm256_storeu_ps(out + i, sum);
    }
  }

  static constexpr VectorKernels vector_kernels() {
    using Fold = Avx512Fold;
    return {"avx512",     Avx2::widen,     Avx2::widen8,
            Fold::fix,    Fold::try_fold8, Fold::try_fold8_positive,
            Fold::fold16, exponentiate,    dot_rows,
            add_rows};
  }

  using Dot = Avx512Dot;

 private:
  SQUAT_AVX512_INLINE static float exponentiate_row(float* scores, Index n, float& highest) {
    const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    const Index whole = n / 16 * 16;
    __m512 top = none;
    for (Index i = 0; i < whole; i += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(scores + i));
    const __m512 tail =
        whole < n ? _mm512_mask_loadu_ps(none, first_lanes(n - whole), scores + whole) : none;
    highest = std::max(highest, reduce<MaxFloats>(_mm512_max_ps(top, tail)));
    const __m512 shift = _mm512_set1_ps(highest);
    __m512 sum = _mm512_setzero_ps();
    for (Index i = 0; i < whole; i += 16) {
      const __m512 p = exp(_mm512_sub_ps(_mm512_loadu_ps(scores + i), shift));
      _mm512_storeu_ps(scores + i, p);
      sum = _mm512_add_ps(sum, p);
    }
    if (whole < n) {
      const __m512 p = exp(_mm512_sub_ps(tail, shift));
      _mm512_mask_storeu_ps(scores + whole, first_lanes(n - whole), p);
      sum = _mm512_add_ps(sum, p);
    }
    return reduce<AddFloats>(sum);
  }

  template <int Vectors>
  SQUAT_AVX512_INLINE static void add_columns(const float* rows, Index count, Index stride,
                                              const float* weights, float* out) {
    __m512 sums[Vectors];
    SQUAT_UNROLL
    for (int k = 0; k < Vectors; ++k) sums[k] = _mm512_loadu_ps(out + 16 * k);
    for (Index r = 0; r < count; ++r, rows += stride) {
      const __m512 weight = _mm512_set1_ps(weights[r]);
      SQUAT_UNROLL
      for (int k = 0; k < Vectors; ++k)
        sums[k] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(rows + 16 * k), sums[k]);
    }
    SQUAT_UNROLL
    for (int k = 0; k < Vectors; ++k) _mm512_storeu_ps(out + 16 * k, sums[k]);
  }
};

}  // namespace squat::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
