// Chooses the kernels of attention.
#pragma once

#include <squat/detail/simd/available_kernels.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail::simd {

SQUAT_COMPILED_ONCE const VectorKernels& vector_kernels() {
  static const VectorKernels kernels = vector_kernels_for(requested());
  return kernels;
}

SQUAT_COMPILED_ONCE const DotKernels& dot_kernels(int bits) {
  static const std::array<DotKernels, 5> kernels = [] {
    const InstructionSet set = requested();
    return std::array<DotKernels, 5>{dot_kernels_for<1>(set), dot_kernels_for<2>(set),
                                     dot_kernels_for<3>(set), dot_kernels_for<4>(set),
                                     dot_kernels_for<8>(set)};
  }();
  return kernels[static_cast<std::size_t>(bits == 8 ? 4 : bits - 1)];
}

SQUAT_COMPILED_ONCE const MatrixKernels& matrix_kernels() {
  static const MatrixKernels kernels = matrix_kernels_for(requested());
  return kernels;
}

}  // namespace squat::detail::simd
