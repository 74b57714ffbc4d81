// Encoding where there is AVX-512: it takes many numbers at once for that to take less time.
#pragma once

#include <squat/detail/encoding/simd/avx2_encode.hpp>
#include <squat/detail/encoding/simd/avx512_loops.hpp>

#if defined(SQUAT_HAVE_AVX512)

namespace squat::detail::simd {

struct Avx512Encode {
  static void encode_eight_channels(float* x, Index blocks, Index tokens, const float* inner,
                                    Index step, const GroupFormat& format, const float* expected,
                                    Affine<float>* affine, std::uint8_t* codes) {
    constexpr auto encode = Avx2Groups<Avx512Loops>::encode_eight_channels;
    constexpr auto encode_few = Avx2Groups<Avx2Loops>::encode_eight_channels;
    const Index groups = std::min(blocks * step, most_groups);
    (groups * tokens < enough ? encode_few : encode)(x, blocks, tokens, inner, step, format,
                                                     expected, affine, codes);
  }

  static void groups(const float* x, Index n, Index length, const GroupFormat& format,
                     CodeGrid<float>* grids, std::uint8_t* codes) {
    constexpr auto encode = Avx2Groups<Avx512Loops>::groups;
    constexpr auto encode_few = Avx2Groups<Avx2Loops>::groups;
    (std::min(n, most_groups * length) < enough ? encode_few : encode)(x, n, length, format, grids,
                                                                       codes);
  }

  template <int Bits>
  static constexpr EncodeKernels kernels() {
    EncodeKernels kernels = Avx2Encode::kernels<Bits>();
    kernels.encode_eight_channels = encode_eight_channels;
    kernels.groups = groups;
    return kernels;
  }

 private:
  static constexpr Index most_groups = Avx2Affine::most_groups;
  static constexpr Index enough = 512;  // numbers of groups side by side
};

}  // namespace squat::detail::simd

#endif
