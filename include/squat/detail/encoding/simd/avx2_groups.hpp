// Groups of numbers to codes and scales in AVX2.
#pragma once

#include <squat/detail/encoding/simd/avx2_grids.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::detail::simd {

/// What EncodeKernels does with groups.
struct Avx2Groups : Avx2Grids {
  SQUAT_AVX2 static void encode_eight_channels(float* x, Index blocks, Index tokens,
                                               const float* inner, Index step,
                                               const GroupFormat& format, const float* expected,
                                               Affine<float>* affine, std::uint8_t* codes) {
    const Index stride = blocks * tokens;
    const __m256 max_code = _mm256_set1_ps(static_cast<float>((1 << format.bits) - 1));
    const std::int16_t inverse_step = inverse_step_for(format, tokens);
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
          move(own, stride, channel + k, inner + 8 * (channel + k), channel & -step, numbers,
               moved + k * numbers);
        Grids grids;
        find_grids({moved, tokens, together * count, tokens}, format, inverse_step,
                   _mm256_load_ps(expecteds[channel / together]), grids);
        for (Index k = 0; k < together; ++k)
          for (Index i = 0; i < count; ++i) {
            const Index group = k * count + i, place = 8 * (first + i) + channel + k;
            affine[place] = {grids.scale[group], grids.zero[group]};
            encode(moved + group * tokens, tokens, grids, group, max_code,
                   own + (channel + k) * stride + i * tokens, codes + place * tokens);
          }
      }
    }
  }

  SQUAT_AVX2 static void store8(const Affine<float>* affine, float max_code, const float* expected,
                                std::byte* scales, std::byte* midpoints) {
    const __m256 first = _mm256_loadu_ps(&affine->scale);
    const __m256 second = _mm256_loadu_ps(&affine[4].scale);
    const __m256 scale = every_second(_mm256_shuffle_ps(first, second, 0x88));
    const __m256 zero = every_second(_mm256_shuffle_ps(first, second, 0xdd));
    const __m256 from = expected == nullptr ? zero : _mm256_sub_ps(zero, _mm256_loadu_ps(expected));
    const __m256 steps =
        _mm256_div_ps(add_product(from, scale, _mm256_set1_ps(max_code / 2)),
                      _mm256_mul_ps(scale, _mm256_set1_ps(max_code / midpoint_steps)));
    store64(reinterpret_cast<std::uint8_t*>(scales), to_bytes(scale));
    const __m256i whole = _mm256_cvtps_epi32(if_positive(scale, steps));
    const __m128i words = narrow16(whole);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(midpoints), _mm_packs_epi16(words, words));
  }

  SQUAT_AVX2 static void groups(const float* x, Index n, Index length, const GroupFormat& format,
                                CodeGrid<float>* grids, std::uint8_t* codes) {
    const __m256 max_code = _mm256_set1_ps(static_cast<float>((1 << format.bits) - 1));
    for (Index first = 0; first < n;) {
      // The last group may be shorter than the others, and is then alone.
      const Index numbers = std::min(length, n - first);
      const Index count = std::min((n - first) / numbers, most_groups);
      Grids found;
      find_grids({x + first, length, count, numbers}, format, inverse_step_for(format, numbers),
                 _mm256_setzero_ps(), found);
      for (Index group = 0; group < count; ++group, first += numbers) {
        *grids++ = found[group];
        const __m256 shift = _mm256_set1_ps(found.shift[group]);
        const __m256 inverse = _mm256_set1_ps(found.inverse[group]);
        const __m256 origin = _mm256_set1_ps(found.origin[group]);
        const auto code = [&](Index i) SQUAT_AVX2 {
          const __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x + i), shift);
          return _mm256_cvtps_epi32(on_grid(y, inverse, origin, max_code));
        };
        Index i = first;
        for (; i + 32 <= first + numbers; i += 32)
          store_codes(codes + i, code(i), code(i + 8), code(i + 16), code(i + 24));
        for (; i < first + numbers; i += 8) store64(codes + i, code(i));
      }
    }
  }

 protected:
  struct Range {
    __m256 scale;
    __m256 zero;
    __m256 inverse;
  };

  /// min_max of affine.hpp, for eight ranges with scales of 16 or 32 bits.
  SQUAT_AVX2_INLINE static Range fit_eight(__m256 low, __m256 high, float max_code,
                                           int scale_bits) {
    const __m256 limit = _mm256_set1_ps(static_cast<float>(largest_storable(scale_bits)));
    const Affines affines = stored_range(within(low, limit), within(high, limit), max_code,
                                         scale_bits, _mm256_setzero_ps());
    return {affines.scale, affines.zero, if_positive(affines.scale, inverse(affines.scale))};
  }

  SQUAT_AVX2_INLINE static __m256i to_codes(__m256 x, const Range& range, float max_code) {
    const __m256 code = _mm256_mul_ps(_mm256_sub_ps(x, range.zero), range.inverse);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), _mm256_set1_ps(max_code)));
  }

  /// moved = x of channel k [n], a multiple of 32, and what the errors of the first `errors` add.
  SQUAT_AVX2_INLINE static void move(const float* x, Index stride, Index k, const float* inner,
                                     Index errors, Index n, float* moved) {
    for (Index t = 0; t < n; t += 32) {
      __m256 y[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) y[v] = _mm256_loadu_ps(x + k * stride + t + 8 * v);
      for (Index i = 0; i < errors; ++i) {
        const __m256 factor = _mm256_broadcast_ss(inner + i);
        SQUAT_UNROLL
        for (int v = 0; v < 4; ++v)
          y[v] = add_product(y[v], factor, _mm256_loadu_ps(x + i * stride + t + 8 * v));
      }
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) _mm256_store_ps(moved + t + 8 * v, y[v]);
    }
  }

  /// Codes of moved [n], n a multiple of 32; x [n], which it came from, becomes its error.
  SQUAT_AVX2_INLINE static void encode(const float* moved, Index n, const Grids& grids, Index group,
                                       __m256 max_code, float* x, std::uint8_t* codes) {
    const __m256 scale = _mm256_broadcast_ss(&grids.scale[group]);
    const __m256 zero = _mm256_broadcast_ss(&grids.zero[group]);
    const __m256 shift = _mm256_broadcast_ss(&grids.shift[group]);
    const __m256 inverse = _mm256_broadcast_ss(&grids.inverse[group]);
    const __m256 origin = _mm256_broadcast_ss(&grids.origin[group]);
    for (Index t = 0; t < n; t += 32) {
      __m256i code[4];
      SQUAT_UNROLL
      for (int v = 0; v < 4; ++v) {
        float* const own = x + t + 8 * v;
        const __m256 y = _mm256_sub_ps(_mm256_load_ps(moved + t + 8 * v), shift);
        code[v] = _mm256_cvtps_epi32(on_grid(y, inverse, origin, max_code));
        const __m256 stored = add_product(zero, _mm256_cvtepi32_ps(code[v]), scale);
        _mm256_storeu_ps(own, _mm256_sub_ps(stored, _mm256_loadu_ps(own)));
      }
      store_codes(codes + t, code[0], code[1], code[2], code[3]);
    }
  }

  /// What a shuffle within 128 bits took from two registers, those of the first one first.
  SQUAT_AVX2_INLINE static __m256 every_second(__m256 shuffled) {
    return _mm256_castsi256_ps(in_order(_mm256_castps_si256(shuffled)));
  }

  /// 32 codes, a byte each.
  SQUAT_AVX2_INLINE static void store_codes(std::uint8_t* target, __m256i a, __m256i b, __m256i c,
                                            __m256i d) {
    // Packing works within 128 bits and leaves fours 0, 2, 4, 6, 1, 3, 5, 7.
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    store256(target, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }

  /// 8 codes, a byte each.
  SQUAT_AVX2_INLINE static void store64(std::uint8_t* target, __m256i x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(words, words));
  }
};

}  // namespace squat::detail::simd

#endif
