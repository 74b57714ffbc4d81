// Chooses the encoding kernels that this machine runs.
#pragma once

#include <squat/detail/encoding/simd/avx2_encode.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail::simd {

template <int Bits>
EncodeKernels encode_kernels_for(InstructionSet set) {
  require(is_available(set), "instruction set ", static_cast<int>(set), " is not available");
#if defined(SQUAT_HAVE_AVX2)
  // AVX-512 has none of its own.
  if (set == InstructionSet::avx2 || set == InstructionSet::avx512)
    return Avx2Encode::kernels<Bits>();
#endif
  return PortableEncode::kernels<Bits>();
}

/// The kernels in use for codes of 1, 2, 3, 4 or 8 bits: requested() is asked once.
inline const EncodeKernels& encode_kernels(int bits = 2) {
  static const std::array<EncodeKernels, 5> kernels = [] {
    const InstructionSet set = requested();
    return std::array<EncodeKernels, 5>{encode_kernels_for<1>(set), encode_kernels_for<2>(set),
                                        encode_kernels_for<3>(set), encode_kernels_for<4>(set),
                                        encode_kernels_for<8>(set)};
  }();
  return kernels[static_cast<std::size_t>(bits == 8 ? 4 : bits - 1)];
}

}  // namespace squat::detail::simd
