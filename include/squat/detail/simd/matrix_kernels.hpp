// Products, transposes and rotations of matrices in single precision, in plain C++.
#pragma once

#include <squat/detail/math/hadamard.hpp>

namespace squat::detail::simd {

/// As in VectorKernels the portable version is the specification; others compute the very same
/// bits.
struct MatrixKernels {
  /// detail::hadamard() of x[0..n).
  void (*hadamard)(float* x, Index n);

  /// x [rows, columns] transposed: column c goes to out[c] [rows]. Rows and columns are multiples
  /// of 8, the rows of x are `stride` apart.
  void (*transpose)(const float* x, Index stride, Index rows, Index columns, float* const* out);
  /// out [rows, columns] += a [rows, n] b [n, columns]; rows are a multiple of 4, columns of 8,
  /// strides are those of rows. Products are rounded before they are added, in the order of n.
  void (*add_products)(const float* a, Index a_stride, const float* b, Index b_stride, float* out,
                       Index out_stride, Index rows, Index n, Index columns);
};

struct PortableMatrix {
  static void transpose(const float* x, Index stride, Index rows, Index columns,
                        float* const* out) {
    for (Index row = 0; row < rows; ++row)
      for (Index c = 0; c < columns; ++c) out[c][row] = x[row * stride + c];
  }

  static void add_products(const float* a, Index a_stride, const float* b, Index b_stride,
                           float* out, Index out_stride, Index rows, Index n, Index columns) {
    for (Index row = 0; row < rows; ++row)
      for (Index c = 0; c < columns; c += 8) {
        float* const target = out + row * out_stride + c;
        float sums[8];
        std::copy_n(target, 8, sums);
        for (Index i = 0; i < n; ++i)
          for (Index k = 0; k < 8; ++k)
            sums[k] += rounded(a[row * a_stride + i] * b[i * b_stride + c + k]);
        std::copy_n(sums, 8, target);
      }
  }

  static constexpr MatrixKernels kernels() {
    return {detail::hadamard<float>, transpose, add_products};
  }
};

}  // namespace squat::detail::simd
