// Groups of numbers to codes and scales in AVX2.
#pragma once

#include <squat/detail/encoding/simd/avx2_grids.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

/// What EncodeKernels does with groups.
template <class Loops>
struct Avx2Groups : Avx2Affine {
  using FindGrids = Avx2Grids<Loops>;

  SQUAT_AVX2 static void encode_eight_channels(float* x, Index blocks, Index tokens,
                                               const float* inner, Index step,
                                               const GroupFormat& format, const float* expected,
                                               Affine<float>* affine, std::uint8_t* codes) {
    const Index stride = blocks * tokens;
    const float max_code = static_cast<float>((1 << format.bits) - 1);
    const std::int16_t inverse_step = FindGrids::inverse_step_for(format, tokens);
    alignas(32) float moved[most_groups * 128];
    for (Index first = 0; first < blocks; first += most_groups) {
      const Index count = std::min(blocks - first, most_groups), numbers = count * tokens;
      Index together = 1;  // channels
      while (2 * together <= step && 2 * together * count <= most_groups) together *= 2;
      // Of every group, each call's in a register: in time, since what is written in parts is slow
      // to be read as a whole.
      alignas(32) float expecteds[8][8] = {};
      if (expected != nullptr)
        for (Index k = 0; k < 8; ++k)
          std::fill_n(expecteds[k / together] + k % together * count, count, expected[k]);
      float* const own = x + first * tokens;
      for (Index channel = 0; channel < 8; channel += together) {
        for (Index k = 0; k < together; ++k)
          Loops::move(own, stride, channel + k, inner + 8 * (channel + k), channel & -step, numbers,
                      moved + k * numbers);
        Grids grids;
        FindGrids::find_grids({moved, tokens, together * count, tokens}, format, inverse_step,
                              _mm256_load_ps(expecteds[channel / together]), grids);
        for (Index k = 0; k < together; ++k)
          for (Index i = 0; i < count; ++i) {
            const Index group = k * count + i, place = 8 * (first + i) + channel + k;
            affine[place] = {grids.scale[group], grids.zero[group]};
            Loops::encode_moved(moved + group * tokens, tokens, grids[group], max_code,
                                own + (channel + k) * stride + i * tokens, codes + place * tokens);
          }
      }
    }
  }

  SQUAT_AVX2 static void groups(const float* x, Index n, Index length, const GroupFormat& format,
                                CodeGrid<float>* grids, std::uint8_t* codes) {
    const float max_code = static_cast<float>((1 << format.bits) - 1);
    for (Index first = 0; first < n;) {
      // The last group may be shorter than the others, and is then alone.
      const Index numbers = std::min(length, n - first);
      const Index count = std::min((n - first) / numbers, most_groups);
      Grids found;
      FindGrids::find_grids({x + first, length, count, numbers}, format,
                            FindGrids::inverse_step_for(format, numbers), _mm256_setzero_ps(),
                            found);
      for (Index group = 0; group < count; ++group, first += numbers) {
        *grids++ = found[group];
        Loops::encode(x + first, numbers, found[group], max_code, codes + first);
      }
    }
  }
};

}  // namespace squat::detail::simd

#endif
