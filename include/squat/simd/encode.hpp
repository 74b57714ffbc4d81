// Chooses the encoding kernels that this machine runs.
#pragma once

#include <squat/simd/avx2_encode.hpp>
#include <squat/simd/dispatch.hpp>

namespace squat::simd {

template <int Bits>
EncodeKernels<Bits> encode_kernels_for(InstructionSet set) {
  require(is_available(set), "instruction set ", static_cast<int>(set), " is not available");
#if defined(SQUAT_HAVE_AVX2)
  if (set == InstructionSet::avx2 || set == InstructionSet::avx512)
    return Avx2Encode::kernels<Bits>();
#endif
  return PortableEncode::kernels<Bits>();
}

/// The kernels in use: requested() is asked once.
template <int Bits>
const EncodeKernels<Bits>& encode_kernels() {
  static const EncodeKernels<Bits> kernels = encode_kernels_for<Bits>(requested());
  return kernels;
}

}  // namespace squat::simd
