// Products, transposes and rotations of matrices in AVX2.
#pragma once

#include <squat/detail/simd/avx2_registers.hpp>
#include <squat/detail/simd/matrix_kernels.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

struct Avx2Matrix : Avx2Registers {
  SQUAT_AVX2 static void hadamard(float* x, Index n) {
    const Index block = n & -n;  // 8 at least
    const __m256 norm = _mm256_set1_ps(1 / std::sqrt(static_cast<float>(block)));
    Index stride = 8;
    if (block >= 64) {
      stride = 64;
      for (Index first = 0; first < n; first += 64) rotate_block<8>(x + first, norm);
    } else if (block >= 32) {
      stride = 32;
      for (Index first = 0; first < n; first += 32) rotate_block<4>(x + first, norm);
    } else {
      for (Index first = 0; first < n; first += 8) rotate_block<1>(x + first, norm);
    }
    for (; stride < block; stride *= 2)
      for (Index first = 0; first < n; first += 2 * stride)
        for (Index i = first; i < first + stride; i += 8) {
          const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + stride);
          _mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
          _mm256_storeu_ps(x + i + stride, _mm256_sub_ps(a, b));
        }
  }

  SQUAT_AVX2 static void transpose(const float* x, Index stride, Index rows, Index columns,
                                   float* const* out) {
    // Squares of 16, so that a line of the cache is read at once, and written at once.
    for (Index row = 0; row < rows; row += 16)
      for (Index c = 0; c < columns; c += 16) {
        for (Index r = row; r < std::min(row + 16, rows); r += 8)
          for (Index k = c; k < std::min(c + 16, columns); k += 8)
            transpose8(x + r * stride + k, stride, out + k, r);
        // Rows so far apart are not foreseen by the processor.
        for (Index next = row + 16; next < std::min(row + 32, rows); ++next)
          _mm_prefetch(reinterpret_cast<const char*>(x + next * stride + c), _MM_HINT_T0);
      }
  }

  SQUAT_AVX2 static void add_products(const float* a, Index a_stride, const float* b,
                                      Index b_stride, float* out, Index out_stride, Index rows,
                                      Index n, Index columns) {
    for (Index column = 0; column < columns;) {
      const Index vectors = std::min((columns - column) / 8, Index{3});
      for (Index row = 0; row < rows; row += 4) {
        const float* const factors = a + row * a_stride;
        float* const sums = out + row * out_stride + column;
        if (vectors == 3)
          add_products_block<3>(factors, a_stride, b + column, b_stride, sums, out_stride, n);
        else if (vectors == 2)
          add_products_block<2>(factors, a_stride, b + column, b_stride, sums, out_stride, n);
        else
          add_products_block<1>(factors, a_stride, b + column, b_stride, sums, out_stride, n);
      }
      column += 8 * vectors;
    }
  }

  static constexpr MatrixKernels kernels() { return {hadamard, transpose, add_products}; }

 private:
  /// The strides below 8 Vectors, in registers.
  template <int Vectors>
  SQUAT_AVX2_INLINE static void rotate_block(float* x, __m256 norm) {
    // Within eight: a + b where the index has no bit of the stride, a - b where it has.
    const __m256 by1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 by2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 by4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    __m256 y[Vectors];
    SQUAT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      __m256 z = product(_mm256_loadu_ps(x + 8 * v), norm);
      z = _mm256_fmadd_ps(z, by1, _mm256_permute_ps(z, 0xb1));
      z = _mm256_fmadd_ps(z, by2, _mm256_permute_ps(z, 0x4e));
      y[v] = _mm256_fmadd_ps(z, by4, _mm256_permute2f128_ps(z, z, 1));
    }
    SQUAT_UNROLL
    for (int stride = 1; stride < Vectors; stride *= 2) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        if (v & stride) continue;
        const __m256 a = y[v], b = y[v + stride];
        y[v] = _mm256_add_ps(a, b);
        y[v + stride] = _mm256_sub_ps(a, b);
      }
    }
    SQUAT_UNROLL
    for (int v = 0; v < Vectors; ++v) _mm256_storeu_ps(x + 8 * v, y[v]);
  }

  /// Column c of x [8, 8] goes to out[c] + at.
  SQUAT_AVX2_INLINE static void transpose8(const float* x, Index stride, float* const* out,
                                           Index at) {
    // Rows i and i + 4 side by side, so that what is left stays within halves.
    SQUAT_UNROLL
    for (int first = 0; first < 8; first += 4) {
      __m256 rows[4];
      SQUAT_UNROLL
      for (int i = 0; i < 4; ++i)
        rows[i] = _mm256_set_m128(_mm_loadu_ps(x + (i + 4) * stride + first),
                                  _mm_loadu_ps(x + i * stride + first));
      const __m256 a = _mm256_unpacklo_ps(rows[0], rows[1]);
      const __m256 b = _mm256_unpackhi_ps(rows[0], rows[1]);
      const __m256 c = _mm256_unpacklo_ps(rows[2], rows[3]);
      const __m256 d = _mm256_unpackhi_ps(rows[2], rows[3]);
      _mm256_storeu_ps(out[first] + at, _mm256_shuffle_ps(a, c, 0x44));
      _mm256_storeu_ps(out[first + 1] + at, _mm256_shuffle_ps(a, c, 0xee));
      _mm256_storeu_ps(out[first + 2] + at, _mm256_shuffle_ps(b, d, 0x44));
      _mm256_storeu_ps(out[first + 3] + at, _mm256_shuffle_ps(b, d, 0xee));
    }
  }

  /// Four rows by 8 * Vectors columns.
  template <int Vectors>
  SQUAT_AVX2_INLINE static void add_products_block(const float* a, Index a_stride, const float* b,
                                                   Index b_stride, float* out, Index out_stride,
                                                   Index n) {
    __m256 sum[4][Vectors];
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        sum[row][v] = _mm256_loadu_ps(out + row * out_stride + 8 * v);
    }
    for (Index i = 0; i < n; ++i, b += b_stride) {
      SQUAT_UNROLL
      for (int row = 0; row < 4; ++row) {
        const __m256 factor = _mm256_broadcast_ss(a + row * a_stride + i);
        SQUAT_UNROLL
        for (int v = 0; v < Vectors; ++v)
          sum[row][v] = add_product(sum[row][v], factor, _mm256_loadu_ps(b + 8 * v));
      }
    }
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        _mm256_storeu_ps(out + row * out_stride + 8 * v, sum[row][v]);
    }
  }
};

}  // namespace squat::detail::simd

#endif
