// The operations in AVX-512: F, BW, VL, DQ and VNNI.
#pragma once

#include <squat/detail/simd/avx2.hpp>
#include <squat/detail/simd/avx512_dot.hpp>
#include <squat/detail/simd/avx512_fold.hpp>
#include <squat/detail/simd/avx512_fold_positive.hpp>
#include <squat/detail/simd/avx512_matrix.hpp>

#if defined(SQUAT_HAVE_AVX512)

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::detail::simd {

struct Avx512 : Avx512Registers {
  static constexpr const char* name = "avx512";
  static bool is_available() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
  }

  SQUAT_AVX512 static void read_f16_table(const std::uint16_t* scales, const std::uint16_t* zeros,
                                          Index n, float centre, float* scale, float* midpoint) {
    const __m512 c = _mm512_set1_ps(centre);
    const Index whole = n / 16 * 16;
    for (Index i = 0; i < whole; i += 16) {
      const __m512 s = _mm512_cvtph_ps(load256(scales + i));
      _mm512_storeu_ps(scale + i, s);
      _mm512_storeu_ps(midpoint + i,
                       zeros == nullptr
                           ? _mm512_setzero_ps()
                           : _mm512_fmadd_ps(c, s, _mm512_cvtph_ps(load256(zeros + i))));
    }
    if (whole < n)
      Avx2::read_f16_table(scales + whole, zeros == nullptr ? nullptr : zeros + whole, n - whole,
                           centre, scale + whole, midpoint + whole);
  }

  SQUAT_AVX512 static void read_8_bit_table(const std::uint8_t* scales,
                                            const std::int8_t* midpoints, const float* expected,
                                            Index n, float step, float* scale, float* midpoint) {
    const Index whole = n / 16 * 16;
    for (Index i = 0; i < whole; i += 16) {
      const __m512 s =
          _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(load128(scales + i)), 7));
      _mm512_storeu_ps(scale + i, s);
      __m512 m = expected == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(expected + i);
      if (midpoints != nullptr)
        m = _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_set1_ps(step)),
                            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(midpoints + i))), m);
      _mm512_storeu_ps(midpoint + i, m);
    }
    if (whole < n)
      Avx2::read_8_bit_table(scales + whole, midpoints == nullptr ? nullptr : midpoints + whole,
                             expected == nullptr ? nullptr : expected + whole, n - whole, step,
                             scale + whole, midpoint + whole);
  }

  SQUAT_AVX512 static void exponentiate(float* scores, Index stride, Index rows, Index n,
                                        float* max, float* sums) {
    for (; rows >= 4; rows -= 4, scores += 4 * stride, max += 4, sums += 4)
      exponentiate_rows<4>(scores, stride, n, max, sums);
    if (rows == 3) exponentiate_rows<3>(scores, stride, n, max, sums);
    if (rows == 2) exponentiate_rows<2>(scores, stride, n, max, sums);
    if (rows == 1) exponentiate_rows<1>(scores, stride, n, max, sums);
  }

  template <class Code>
  SQUAT_AVX512 static void widen(const Code* codes, const std::uint16_t* scales, Index n,
                                 float* out) {
    Index i = 0;
    for (; i + 32 <= n; i += 32) {
      const __m512 scale = _mm512_castsi512_ps(_mm512_set1_epi32(*scales++ << 16));
      SQUAT_UNROLL
      for (int half = 0; half < 32; half += 16) {
        const __m512i wide = sizeof(Code) == 1 ? _mm512_cvtepi8_epi32(load128(codes + i + half))
                                               : _mm512_cvtepi16_epi32(load256(codes + i + half));
        _mm512_storeu_ps(out + i + half, _mm512_mul_ps(_mm512_cvtepi32_ps(wide), scale));
      }
    }
    if (i < n) Avx2::widen(codes + i, scales, n - i, out + i);
  }

  SQUAT_AVX512 static void dot_rows(const float* rows, Index count, Index n, const float* queries,
                                    Index query_count, float* scores, Index stride) {
    for (; query_count >= 2; query_count -= 2, queries += 2 * n, scores += 2 * stride)
      dot_queries<2>(rows, count, n, queries, scores, stride);
    if (query_count == 1) dot_queries<1>(rows, count, n, queries, scores, stride);
  }

  SQUAT_AVX512 static void add_rows(const float* rows, Index count, Index n, const float* weights,
                                    Index weight_stride, Index sum_count, float* sums,
                                    Index stride) {
    for (; sum_count >= 2; sum_count -= 2, weights += 2 * weight_stride, sums += 2 * stride)
      add_to_sums<2>(rows, count, n, weights, weight_stride, sums, stride);
    if (sum_count == 1) add_to_sums<1>(rows, count, n, weights, weight_stride, sums, stride);
  }

  static constexpr VectorKernels vector_kernels() {
    using Fold = Avx512Fold;
    using FoldPositive = Avx512FoldPositive;
    return {read_f16_table,
            read_8_bit_table,
            widen<std::int8_t>,
            widen<std::int16_t>,
            Fold::to_fixed_point,
            Fold::try_fold8,
            FoldPositive::try_fold8,
            Fold::fold16,
            exponentiate,
            dot_rows,
            add_rows};
  }

  using Dot = Avx512Dot;
  using Matrix = Avx512Matrix;

 private:
  /// Rows together, so that one waits for another as little as possible.
  template <int Rows>
  SQUAT_AVX512_INLINE static void exponentiate_rows(float* scores, Index stride, Index n,
                                                    float* max, float* sums) {
    const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    const Index whole = n / 16 * 16;
    const __mmask16 tail = first_lanes(n - whole);
    __m512 parts[Rows];
    SQUAT_UNROLL
    for (int row = 0; row < Rows; ++row) {
      parts[row] = _mm512_mask_loadu_ps(none, tail, scores + row * stride + whole);
      for (Index i = 0; i < whole; i += 16)
        parts[row] = _mm512_max_ps(parts[row], _mm512_loadu_ps(scores + row * stride + i));
    }
    const __m128 top = _mm_max_ps(load<Rows>(max), reduce<MaxFloats>(parts));
    store<Rows>(top, max);
    const __m512 tops = _mm512_broadcast_f32x4(top);
    SQUAT_UNROLL
    for (int row = 0; row < Rows; ++row) {
      const __m512 shift = _mm512_permutexvar_ps(_mm512_set1_epi32(row), tops);
      parts[row] = _mm512_setzero_ps();
      for (Index i = 0; i < whole; i += 16) {
        float* const at = scores + row * stride + i;
        const __m512 p = exp(_mm512_sub_ps(_mm512_loadu_ps(at), shift));
        _mm512_storeu_ps(at, p);
        parts[row] = _mm512_add_ps(parts[row], p);
      }
      if (tail != 0) {
        float* const at = scores + row * stride + whole;
        const __m512 p = exp(_mm512_sub_ps(_mm512_mask_loadu_ps(none, tail, at), shift));
        _mm512_mask_storeu_ps(at, tail, p);
        parts[row] = _mm512_add_ps(parts[row], p);
      }
    }
    store<Rows>(reduce<AddFloats>(parts), sums);
  }

  // The scalar code that reads what a masked store wrote would wait for it.
  template <int Rows>
  SQUAT_AVX512_INLINE static __m128 load(const float* x) {
    if constexpr (Rows == 4) return _mm_loadu_ps(x);
    return _mm_maskz_loadu_ps((1 << Rows) - 1, x);
  }
  template <int Rows>
  SQUAT_AVX512_INLINE static void store(__m128 x, float* out) {
    if constexpr (Rows == 4)
      _mm_storeu_ps(out, x);
    else
      _mm_mask_storeu_ps(out, (1 << Rows) - 1, x);
  }

  template <int Queries>
  SQUAT_AVX512_INLINE static void dot_queries(const float* rows, Index count, Index n,
                                              const float* queries, float* scores, Index stride) {
    for (; count >= 4; count -= 4, rows += 4 * n, scores += 4)
      dot_block<4, Queries>(rows, n, queries, scores, stride);
    if (count == 3) dot_block<3, Queries>(rows, n, queries, scores, stride);
    if (count == 2) dot_block<2, Queries>(rows, n, queries, scores, stride);
    if (count == 1) dot_block<1, Queries>(rows, n, queries, scores, stride);
  }

  template <int Rows, int Queries>
  SQUAT_AVX512_INLINE static void dot_block(const float* rows, Index n, const float* queries,
                                            float* scores, Index stride) {
    __m128 dots[Queries];
    dot<Rows>(rows, n, queries, n, dots);
    SQUAT_UNROLL
    for (int q = 0; q < Queries; ++q) store<Rows>(dots[q], scores + q * stride);
  }

  template <int Sums>
  SQUAT_AVX512_INLINE static void add_to_sums(const float* rows, Index count, Index n,
                                              const float* weights, Index weight_stride,
                                              float* sums, Index stride) {
    Index i = 0;
    for (; i + 64 <= n; i += 64)
      add_columns<Sums, 4>(rows + i, count, n, weights, weight_stride, sums + i, stride);
    for (; i + 16 <= n; i += 16)
      add_columns<Sums, 1>(rows + i, count, n, weights, weight_stride, sums + i, stride);
    if (i == n) return;
    SQUAT_UNROLL
    for (int q = 0; q < Sums; ++q) {
      __m256 columns = _mm256_loadu_ps(sums + q * stride + i);
      for (Index r = 0; r < count; ++r)
        columns = _mm256_fmadd_ps(_mm256_set1_ps(weights[q * weight_stride + r]),
                                  _mm256_loadu_ps(rows + r * n + i), columns);
      _mm256_storeu_ps(sums + q * stride + i, columns);
    }
  }

  /// 16 * Vectors columns of some sums.
  template <int Sums, int Vectors>
  SQUAT_AVX512_INLINE static void add_columns(const float* rows, Index count, Index n,
                                              const float* weights, Index weight_stride,
                                              float* sums, Index stride) {
    __m512 columns[Sums][Vectors];
    SQUAT_UNROLL
    for (int k = 0; k < Sums * Vectors; ++k)
      columns[k / Vectors][k % Vectors] =
          _mm512_loadu_ps(sums + k / Vectors * stride + k % Vectors * 16);
    for (Index r = 0; r < count; ++r, rows += n) {
      __m512 weight[Sums];
      SQUAT_UNROLL
      for (int q = 0; q < Sums; ++q) weight[q] = _mm512_set1_ps(weights[q * weight_stride + r]);
      SQUAT_UNROLL
      for (int k = 0; k < Vectors; ++k) {
        const __m512 row = _mm512_loadu_ps(rows + 16 * k);
        SQUAT_UNROLL
        for (int q = 0; q < Sums; ++q)
          columns[q][k] = _mm512_fmadd_ps(weight[q], row, columns[q][k]);
      }
    }
    SQUAT_UNROLL
    for (int k = 0; k < Sums * Vectors; ++k)
      _mm512_storeu_ps(sums + k / Vectors * stride + k % Vectors * 16,
                       columns[k / Vectors][k % Vectors]);
  }
};

}  // namespace squat::detail::simd

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
