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
    for (; n >= 32; n -= 32, codes += 32, out += 32) {
      const __m256 scale = upper_half(*scales++);
      SQUAT_UNROLL
      for (int i = 0; i < 32; i += 8) widen8(codes + i, scale, out + i);
    }
    for (Index i = 0; i < n; i += 8) widen8(codes + i, upper_half(*scales), out + i);
  }

  SQUAT_AVX2 static void exponentiate(float* scores, Index stride, Index rows, Index n, float* max,
                                      float* sums) {
    for (; rows >= 4; rows -= 4, scores += 4 * stride, max += 4, sums += 4)
      exponentiate_rows<4>(scores, stride, n, max, sums);
    if (rows == 3) exponentiate_rows<3>(scores, stride, n, max, sums);
    if (rows == 2) exponentiate_rows<2>(scores, stride, n, max, sums);
    if (rows == 1) exponentiate_rows<1>(scores, stride, n, max, sums);
  }

  SQUAT_AVX2 static void dot_rows(const float* rows, Index count, Index n, const float* queries,
                                  Index query_count, float* scores, Index stride) {
    for (; query_count >= 2; query_count -= 2, queries += 2 * n, scores += 2 * stride)
      dot_queries<2>(rows, count, n, queries, scores, stride);
    if (query_count == 1) dot_queries<1>(rows, count, n, queries, scores, stride);
  }

  SQUAT_AVX2 static void add_rows(const float* rows, Index count, Index n, const float* weights,
                                  Index weight_stride, Index sum_count, float* sums, Index stride) {
    for (; sum_count >= 2; sum_count -= 2, weights += 2 * weight_stride, sums += 2 * stride)
      add_to_sums<2>(rows, count, n, weights, weight_stride, sums, stride);
    if (sum_count == 1) add_to_sums<1>(rows, count, n, weights, weight_stride, sums, stride);
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
  /// All lanes the number whose upper 16 bits these are.
  SQUAT_AVX2_INLINE static __m256 upper_half(std::uint16_t bits) {
    return _mm256_castsi256_ps(_mm256_set1_epi32(bits << 16));
  }

  template <class Code>
  SQUAT_AVX2_INLINE static void widen8(const Code* codes, __m256 scale, float* out) {
    const __m256i wide = sizeof(Code) == 1 ? _mm256_cvtepi8_epi32(load64(codes))
                                           : _mm256_cvtepi16_epi32(load128(codes));
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(wide), scale));
  }

  template <int Queries>
  SQUAT_AVX2_INLINE static void dot_queries(const float* rows, Index count, Index n,
                                            const float* queries, float* scores, Index stride) {
    for (; count >= 4; count -= 4, rows += 4 * n, scores += 4)
      dot_block<4, Queries>(rows, n, queries, scores, stride);
    if (count == 3) dot_block<3, Queries>(rows, n, queries, scores, stride);
    if (count == 2) dot_block<2, Queries>(rows, n, queries, scores, stride);
    if (count == 1) dot_block<1, Queries>(rows, n, queries, scores, stride);
  }

  template <int Rows, int Queries>
  SQUAT_AVX2_INLINE static void dot_block(const float* rows, Index n, const float* queries,
                                          float* scores, Index stride) {
    __m256 parts[Queries][Rows];
    SQUAT_UNROLL
    for (int k = 0; k < Queries * Rows; ++k) parts[k / Rows][k % Rows] = _mm256_setzero_ps();
    for (Index i = 0; i < n; i += 8) {
      __m256 query[Queries];
      SQUAT_UNROLL
      for (int q = 0; q < Queries; ++q) query[q] = _mm256_loadu_ps(queries + q * n + i);
      SQUAT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        __m256 row = _mm256_loadu_ps(rows + r * n + i);
        keep(row);
        SQUAT_UNROLL
        for (int q = 0; q < Queries; ++q) parts[q][r] = _mm256_fmadd_ps(row, query[q], parts[q][r]);
      }
    }
    SQUAT_UNROLL
    for (int q = 0; q < Queries; ++q) store<Rows>(reduce<AddFloats>(parts[q]), scores + q * stride);
  }

  template <int Sums>
  SQUAT_AVX2_INLINE static void add_to_sums(const float* rows, Index count, Index n,
                                            const float* weights, Index weight_stride, float* sums,
                                            Index stride) {
    Index i = 0;
    for (; i + 32 <= n; i += 32)
      add_columns<Sums, 4>(rows + i, count, n, weights, weight_stride, sums + i, stride);
    for (; i < n; i += 8)
      add_columns<Sums, 1>(rows + i, count, n, weights, weight_stride, sums + i, stride);
  }

  /// 8 * Vectors columns of some sums.
  template <int Sums, int Vectors>
  SQUAT_AVX2_INLINE static void add_columns(const float* rows, Index count, Index n,
                                            const float* weights, Index weight_stride, float* sums,
                                            Index stride) {
    __m256 columns[Sums][Vectors];
    SQUAT_UNROLL
    for (int k = 0; k < Sums * Vectors; ++k)
      columns[k / Vectors][k % Vectors] =
          _mm256_loadu_ps(sums + k / Vectors * stride + k % Vectors * 8);
    for (Index r = 0; r < count; ++r, rows += n) {
      __m256 weight[Sums];
      SQUAT_UNROLL
      for (int q = 0; q < Sums; ++q)
        weight[q] = _mm256_broadcast_ss(weights + q * weight_stride + r);
      SQUAT_UNROLL
      for (int k = 0; k < Vectors; ++k) {
        __m256 row = _mm256_loadu_ps(rows + 8 * k);
        keep(row);
        SQUAT_UNROLL
        for (int q = 0; q < Sums; ++q)
          columns[q][k] = _mm256_fmadd_ps(weight[q], row, columns[q][k]);
      }
    }
    SQUAT_UNROLL
    for (int k = 0; k < Sums * Vectors; ++k)
      _mm256_storeu_ps(sums + k / Vectors * stride + k % Vectors * 8,
                       columns[k / Vectors][k % Vectors]);
  }

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
