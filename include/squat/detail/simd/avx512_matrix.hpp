// Matrices where there is AVX-512: what gains from it, and AVX2's version of the rest.
#pragma once

#include <squat/detail/simd/avx2_matrix.hpp>
#include <squat/detail/simd/avx512_registers.hpp>

#if defined(SQUAT_HAVE_AVX512)

namespace squat::detail::simd {

struct Avx512Matrix : Avx512Registers {
  /// MatrixKernels::add_products: the sums of Avx2Matrix::add_products in its order, with 16
  /// columns to a register.
  SQUAT_AVX512 static void add_products(const float* a, Index a_stride, const float* b,
                                        Index b_stride, float* out, Index out_stride, Index rows,
                                        Index n, Index columns) {
    Index column = 0;
    for (; columns - column >= 64; column += 64)
      add_column_block<4>(a, a_stride, b + column, b_stride, out + column, out_stride, rows, n);
    for (; columns - column >= 16; column += 16)
      add_column_block<1>(a, a_stride, b + column, b_stride, out + column, out_stride, rows, n);
    if (column < columns)
      Avx2Matrix::add_products(a, a_stride, b + column, b_stride, out + column, out_stride, rows, n,
                               columns - column);
  }

  static constexpr MatrixKernels kernels() {
    MatrixKernels kernels = Avx2Matrix::kernels();
    kernels.add_products = add_products;
    return kernels;
  }

 private:
  /// 16 * Vectors columns, four rows at a time.
  template <int Vectors>
  SQUAT_AVX512_INLINE static void add_column_block(const float* a, Index a_stride, const float* b,
                                                   Index b_stride, float* out, Index out_stride,
                                                   Index rows, Index n) {
    for (Index first = 0; first < rows; first += 4, a += 4 * a_stride, out += 4 * out_stride) {
      __m512 sum[4][Vectors];
      SQUAT_UNROLL
      for (int row = 0; row < 4; ++row) {
        SQUAT_UNROLL
        for (int v = 0; v < Vectors; ++v)
          sum[row][v] = _mm512_loadu_ps(out + row * out_stride + 16 * v);
      }
      const float* factors = b;
      for (Index i = 0; i < n; ++i, factors += b_stride) {
        SQUAT_UNROLL
        for (int row = 0; row < 4; ++row) {
          const __m512 factor = _mm512_set1_ps(a[row * a_stride + i]);
          SQUAT_UNROLL
          for (int v = 0; v < Vectors; ++v)
            sum[row][v] = add_product(sum[row][v], factor, _mm512_loadu_ps(factors + 16 * v));
        }
      }
      SQUAT_UNROLL
      for (int row = 0; row < 4; ++row) {
        SQUAT_UNROLL
        for (int v = 0; v < Vectors; ++v)
          _mm512_storeu_ps(out + row * out_stride + 16 * v, sum[row][v]);
      }
    }
  }
};

}  // namespace squat::detail::simd

#endif
