// The vector operations in AVX2, FMA and F16C.
#pragma once

#include <squat/detail/simd/avx2_dot.hpp>
#include <squat/detail/simd/avx2_fold.hpp>
#include <squat/detail/simd/avx2_matrix.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

struct Avx2 : Avx2Registers {
  static constexpr const char* name = "avx2";
  // F16C has no name in every compiler; all machines with AVX2 have it.
  static bool is_available() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }

  SQUAT_AVX2 static void read_f16_table(const std::uint16_t* scales, const std::uint16_t* zeros,
                                        Index n, float centre, float* scale, float* midpoint) {
    const __m256 c = _mm256_set1_ps(centre);
    for (Index i = 0; i < n; i += 8) {
      const __m256 s = _mm256_cvtph_ps(load128(scales + i));
      _mm256_storeu_ps(scale + i, s);
      _mm256_storeu_ps(midpoint + i,
                       zeros == nullptr
                           ? _mm256_setzero_ps()
                           : _mm256_fmadd_ps(c, s, _mm256_cvtph_ps(load128(zeros + i))));
    }
  }

  SQUAT_AVX2 static void read_8_bit_table(const std::uint8_t* scales, const std::int8_t* midpoints,
                                          const float* expected, Index n, float step, float* scale,
                                          float* midpoint) {
    for (Index i = 0; i < n; i += 8) {
      const __m256 s = _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(load64(scales + i)), 7));
      _mm256_storeu_ps(scale + i, s);
      __m256 m = expected == nullptr ? _mm256_setzero_ps() : _mm256_loadu_ps(expected + i);
      if (midpoints != nullptr)
        m = _mm256_fmadd_ps(_mm256_mul_ps(s, _mm256_set1_ps(step)),
                            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load64(midpoints + i))), m);
      _mm256_storeu_ps(midpoint + i, m);
    }
  }

  template <class Code>
  SQUAT_AVX2 static void widen(const Code* codes, const std::uint16_t* scales, Index n,
                               float* out) {
    for (Index first = 0; first < n; first += 32) {
      const __m256 scale = _mm256_castsi256_ps(_mm256_set1_epi32(*scales++ << 16));
      for (Index i = first; i < std::min(first + 32, n); i += 8) {
        const __m256i wide = sizeof(Code) == 1 ? _mm256_cvtepi8_epi32(load64(codes + i))
                                               : _mm256_cvtepi16_epi32(load128(codes + i));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_cvtepi32_ps(wide), scale));
      }
    }
  }

  SQUAT_AVX2 static void exponentiate(float* scores, Index stride, Index rows, Index n, float* max,
                                      float* sums) {
    for (; rows >= 4; rows -= 4, scores += 4 * stride, max += 4, sums += 4)
      exponentiate_rows<4>(scores, stride, n, max, sums);
    if (rows == 3) exponentiate_rows<3>(scores, stride, n, max, sums);
    if (rows == 2) exponentiate_rows<2>(scores, stride, n, max, sums);
    if (rows == 1) exponentiate_rows<1>(scores, stride, n, max, sums);
  }

  SQUAT_AVX2 static void dot_rows(const float* rows, Index count, Index n, const float* query,
                                  float* scores) {
    for (Index r = 0; r < count; ++r) {
      __m256 sum = _mm256_setzero_ps();
      for (Index i = 0; i < n; i += 8)
        sum = _mm256_fmadd_ps(_mm256_loadu_ps(rows + r * n + i), _mm256_loadu_ps(query + i), sum);
      scores[r] = horizontal_sum(sum);
    }
  }

  SQUAT_AVX2 static void add_rows(const float* rows, Index count, Index n, const float* weights,
                                  float* out) {
    Index i = 0;
    for (; i + 32 <= n; i += 32) {
      __m256 sum[4];
      SQUAT_UNROLL
      for (int k = 0; k < 4; ++k) sum[k] = _mm256_loadu_ps(out + i + 8 * k);
      for (Index r = 0; r < count; ++r) {
        const __m256 weight = _mm256_broadcast_ss(weights + r);
        SQUAT_UNROLL
        for (int k = 0; k < 4; ++k)
          sum[k] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(rows + r * n + i + 8 * k), sum[k]);
      }
      SQUAT_UNROLL
      for (int k = 0; k < 4; ++k) _mm256_storeu_ps(out + i + 8 * k, sum[k]);
    }
    for (; i < n; i += 8) {
      __m256 sum = _mm256_loadu_ps(out + i);
      for (Index r = 0; r < count; ++r)
        sum = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + r), _mm256_loadu_ps(rows + r * n + i),
                              sum);
      _mm256_storeu_ps(out + i, sum);
    }
  }

  static constexpr VectorKernels vector_kernels() {
    using Fold = Avx2Fold;
    return {read_f16_table,
            read_8_bit_table,
            widen<std::int8_t>,
            widen<std::int16_t>,
            Fold::to_fixed_point,
            Fold::try_fold8,
            Fold::try_fold8_positive,
            Fold::fold16,
            exponentiate,
            dot_rows,
            add_rows};
  }

  using Dot = Avx2Dot;
  using Matrix = Avx2Matrix;

 private:
  /// Rows together, so that one waits for another as little as possible.
  template <int Rows>
  SQUAT_AVX2_INLINE static void exponentiate_rows(float* scores, Index stride, Index n, float* max,
                                                  float* sums) {
    __m256 parts[Rows], shift[Rows];
    SQUAT_UNROLL
    for (int row = 0; row < Rows; ++row) parts[row] = _mm256_set1_ps(max[row]);
    for (Index i = 0; i < n; i += 8) {
      SQUAT_UNROLL
      for (int row = 0; row < Rows; ++row)
        parts[row] = _mm256_max_ps(parts[row], _mm256_loadu_ps(scores + row * stride + i));
    }
    store<Rows>(reduce<MaxFloats>(parts), max);
    SQUAT_UNROLL
    for (int row = 0; row < Rows; ++row) {
      shift[row] = _mm256_set1_ps(max[row]);
      parts[row] = _mm256_setzero_ps();
    }
    for (Index i = 0; i < n; i += 8) {
      SQUAT_UNROLL
      for (int row = 0; row < Rows; ++row) {
        float* const at = scores + row * stride + i;
        const __m256 p = exp(_mm256_sub_ps(_mm256_loadu_ps(at), shift[row]));
        _mm256_storeu_ps(at, p);
        parts[row] = _mm256_add_ps(parts[row], p);
      }
    }
    store<Rows>(reduce<AddFloats>(parts), sums);
  }

  template <int Rows>
  SQUAT_AVX2_INLINE static void store(__m128 x, float* out) {
    if constexpr (Rows == 4) {
      _mm_storeu_ps(out, x);
    } else {
      float lanes[4];
      _mm_storeu_ps(lanes, x);
      std::copy_n(lanes, Rows, out);
    }
  }
};

}  // namespace squat::detail::simd

#endif
