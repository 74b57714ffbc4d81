// Chooses the matrix kernels that this machine runs.
#pragma once

#include <squat/detail/simd/avx512_matrix.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail::simd {

inline MatrixKernels matrix_kernels_for(InstructionSet set) {
  require(is_available(set), "instruction set ", static_cast<int>(set), " is not available");
#if defined(SQUAT_HAVE_AVX512)
  if (set == InstructionSet::avx512) return Avx512Matrix::kernels();
#endif
#if defined(SQUAT_HAVE_AVX2)
  if (set == InstructionSet::avx2) return Avx2Matrix::kernels();
#endif
  return PortableMatrix::kernels();
}

/// The kernels in use: requested() is asked once.
inline const MatrixKernels& matrix_kernels() {
  static const MatrixKernels kernels = matrix_kernels_for(requested());
  return kernels;
}

/// hadamard of x[0..n).
template <class Real>
void rotate(Real* x, Index n) {
  if constexpr (std::is_same_v<Real, float>)
    matrix_kernels().rotate(x, n);
  else
    hadamard(x, n);
}

}  // namespace squat::detail::simd
