// The versions of the encoding kernels that this build has.
#pragma once

#include <squat/detail/encoding/simd/avx512_encode.hpp>
#include <squat/detail/simd/instruction_sets.hpp>
#include <string_view>

namespace squat::detail::simd {

template <int Bits>
EncodeKernels encode_kernels_for(const InstructionSet& set) {
  [[maybe_unused]] const std::string_view name = set.name;
#if defined(SQUAT_HAVE_AVX2)
  if (name == Avx2::name) return Avx2Encode::kernels<Bits>();
#endif
#if defined(SQUAT_HAVE_AVX512)
  if (name == Avx512::name) return Avx512Encode::kernels<Bits>();
#endif
  return PortableEncode::kernels<Bits>();
}

}  // namespace squat::detail::simd
