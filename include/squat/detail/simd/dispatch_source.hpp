// Chooses the kernels of attention.
#pragma once

#include <squat/detail/simd/dispatch.hpp>
#include <squat/detail/simd/instruction_sets.hpp>

namespace squat::detail::simd {

SQUAT_COMPILED_ONCE const InstructionSet& instruction_set_in_use() {
  static const InstructionSet& set = requested();
  return set;
}

SQUAT_COMPILED_ONCE const VectorKernels& vector_kernels() {
  return instruction_set_in_use().vector;
}

SQUAT_COMPILED_ONCE const DotKernels& dot_kernels(int bits) {
  return instruction_set_in_use().dot_for(bits);
}

SQUAT_COMPILED_ONCE const MatrixKernels& matrix_kernels() {
  return instruction_set_in_use().matrix;
}

}  // namespace squat::detail::simd
