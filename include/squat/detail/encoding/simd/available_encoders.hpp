// The versions of the encoding kernels that this build has.
#pragma once

#include <squat/detail/encoding/simd/avx512_encode.hpp>
#include <squat/detail/simd/available_kernels.hpp>

namespace squat::detail::simd {

template <int Bits>
EncodeKernels encode_kernels_for(InstructionSet set) {
  require(is_available(set), "instruction set ", static_cast<int>(set), " is not available");
#if defined(SQUAT_HAVE_AVX2)
  if (set == InstructionSet::avx2) return Avx2Encode::kernels<Bits>();
#endif
#if defined(SQUAT_HAVE_AVX512)
  if (set == InstructionSet::avx512) return Avx512Encode::kernels<Bits>();
#endif
  return PortableEncode::kernels<Bits>();
}

}  // namespace squat::detail::simd
