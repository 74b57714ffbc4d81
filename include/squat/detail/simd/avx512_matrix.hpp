// Products, transposes and rotations of matrices in AVX-512.
#pragma once

#include <squat/detail/simd/avx2_matrix.hpp>
#include <squat/detail/simd/avx512_registers.hpp>

#if defined(SQUAT_HAVE_AVX512)

#if !defined(__clang__)
#pragma GCC diagnostic push
// g++ 12 takes what its own intrinsics leave undefined on purpose for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace squat::detail::simd {

struct Avx512Matrix : Avx512Registers {
  /// Sums and differences are those of Avx2Matrix::hadamard.
  SQUAT_AVX512 static void hadamard(float* x, Index n) {
    const Index block = n & -n;
    if (block < 16) return Avx2Matrix::hadamard(x, n);
    const __m512 norm = _mm512_set1_ps(1 / std::sqrt(static_cast<float>(block)));
    Index stride = std::min(block, Index{128});
    for (Index first = 0; first < n; first += stride) {
      if (stride == 128)
        rotate_block<8>(x + first, norm);
      else if (stride == 64)
        rotate_block<4>(x + first, norm);
      else if (stride == 32)
        rotate_block<2>(x + first, norm);
      else
        rotate_block<1>(x + first, norm);
    }
    for (; stride < block; stride *= 2)
      for (Index first = 0; first < n; first += 2 * stride)
        for (Index i = first; i < first + stride; i += 16) {
          const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + stride);
          _mm512_storeu_ps(x + i, _mm512_add_ps(a, b));
          _mm512_storeu_ps(x + i + stride, _mm512_sub_ps(a, b));
        }
  }

  SQUAT_AVX512 static void transpose(const float* x, Index stride, Index rows, Index columns,
                                     float* const* out) {
    if (rows % 16 != 0 || columns % 16 != 0)
      return Avx2Matrix::transpose(x, stride, rows, columns, out);
    for (Index row = 0; row < rows; row += 16)
      for (Index c = 0; c < columns; c += 4)
        transpose16x4(x + row * stride + c, stride, out + c, row);
  }

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

  static constexpr MatrixKernels kernels() { return {hadamard, transpose, add_products}; }

 private:
  /// The strides below 16 Vectors, in registers.
  template <int Vectors>
  SQUAT_AVX512_INLINE static void rotate_block(float* x, __m512 norm) {
    // Within sixteen: a + b where the index has no bit of the stride, a - b where it has.
    const __m512 by1 = _mm512_broadcast_f32x4(_mm_setr_ps(1, -1, 1, -1));
    const __m512 by2 = _mm512_broadcast_f32x4(_mm_setr_ps(1, 1, -1, -1));
    const __m512 by4 = _mm512_broadcast_f32x8(_mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1));
    const __m512 by8 = _mm512_insertf32x8(_mm512_set1_ps(1), _mm256_set1_ps(-1), 1);
    __m512 y[Vectors];
    SQUAT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      __m512 z = product(_mm512_loadu_ps(x + 16 * v), norm);
      z = _mm512_fmadd_ps(z, by1, _mm512_shuffle_ps(z, z, 0xb1));
      z = _mm512_fmadd_ps(z, by2, _mm512_shuffle_ps(z, z, 0x4e));
      z = _mm512_fmadd_ps(z, by4, _mm512_shuffle_f32x4(z, z, 0xb1));
      y[v] = _mm512_fmadd_ps(z, by8, _mm512_shuffle_f32x4(z, z, 0x4e));
    }
    SQUAT_UNROLL
    for (int stride = 1; stride < Vectors; stride *= 2) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        if (v & stride) continue;
        const __m512 a = y[v], b = y[v + stride];
        y[v] = _mm512_add_ps(a, b);
        y[v + stride] = _mm512_sub_ps(a, b);
      }
    }
    SQUAT_UNROLL
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(x + 16 * v, y[v]);
  }

  /// Column c of x [16, 4] goes to out[c] + at.
  SQUAT_AVX512_INLINE static void transpose16x4(const float* x, Index stride, float* const* out,
                                                Index at) {
    // Rows i, i + 4, i + 8 and i + 12 side by side, so that what is left stays within quarters.
    __m512 rows[4];
    SQUAT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float* const row = x + i * stride;
      rows[i] = _mm512_castps128_ps512(_mm_loadu_ps(row));
      rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(row + 4 * stride), 1);
      rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(row + 8 * stride), 2);
      rows[i] = _mm512_insertf32x4(rows[i], _mm_loadu_ps(row + 12 * stride), 3);
    }
    const __m512 a = _mm512_unpacklo_ps(rows[0], rows[1]);
    const __m512 b = _mm512_unpackhi_ps(rows[0], rows[1]);
    const __m512 c = _mm512_unpacklo_ps(rows[2], rows[3]);
    const __m512 d = _mm512_unpackhi_ps(rows[2], rows[3]);
    _mm512_storeu_ps(out[0] + at, _mm512_shuffle_ps(a, c, 0x44));
    _mm512_storeu_ps(out[1] + at, _mm512_shuffle_ps(a, c, 0xee));
    _mm512_storeu_ps(out[2] + at, _mm512_shuffle_ps(b, d, 0x44));
    _mm512_storeu_ps(out[3] + at, _mm512_shuffle_ps(b, d, 0xee));
  }

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

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif
