// The kernels of attention in use: the best that this machine runs.
#pragma once

#include <squat/detail/compiled_once.hpp>
#include <squat/detail/math/rotation.hpp>
#include <squat/detail/simd/kernels.hpp>
#include <squat/detail/simd/matrix_kernels.hpp>

namespace squat::detail::simd {

struct InstructionSet;

// The environment (SQUAT_SIMD) is asked once. Fails as requested() does.

SQUAT_COMPILED_ONCE const InstructionSet& instruction_set_in_use();
SQUAT_COMPILED_ONCE const VectorKernels& vector_kernels();
/// For codes of 1, 2, 3, 4 or 8 bits.
SQUAT_COMPILED_ONCE const DotKernels& dot_kernels(int bits);
SQUAT_COMPILED_ONCE const MatrixKernels& matrix_kernels();

/// `rotation` of heads of n channels.
template <class Real>
HeadRotation<Real> head_rotation(Rotation rotation, Index n) {
  if constexpr (std::is_same_v<Real, float>)
    return {rotation, n, matrix_kernels().hadamard};
  else
    return {rotation, n, hadamard<Real>};
}

}  // namespace squat::detail::simd

#if !defined(SQUAT_COMPILED)
#include <squat/detail/simd/dispatch_source.hpp>
#endif
