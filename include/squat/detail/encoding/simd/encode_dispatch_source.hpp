// Chooses the encoding kernels.
#pragma once

#include <squat/detail/encoding/simd/available_encoders.hpp>
#include <squat/detail/encoding/simd/encode_dispatch.hpp>

namespace squat::detail::simd {

SQUAT_COMPILED_ONCE const EncodeKernels& encode_kernels(int bits) {
  static const std::array<EncodeKernels, 5> kernels = [] {
    const InstructionSet& set = instruction_set_in_use();
    return std::array<EncodeKernels, 5>{encode_kernels_for<1>(set), encode_kernels_for<2>(set),
                                        encode_kernels_for<3>(set), encode_kernels_for<4>(set),
                                        encode_kernels_for<8>(set)};
  }();
  return kernels[width_index(bits)];
}

}  // namespace squat::detail::simd
