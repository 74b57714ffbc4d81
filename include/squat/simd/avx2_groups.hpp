// Groups of numbers to codes and scales in AVX2.
#pragma once

#include <squat/simd/avx2.hpp>
#include <squat/simd/encode_kernels.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

/// What EncodeKernels does with one group at a time.
struct Avx2Groups : Avx2Registers {
  SQUAT_AVX2 static void groups(const float* x, Index n, Index length, const GroupFormat& format,
                                CodeGrid<float>* grids, std::uint8_t* codes) {
    if (format.unbiased || format.scale_bits == 8) {
      for (Index i = 0; i < n; i += length)
        *grids++ = encode_group(x + i, std::min(length, n - i), format, 0, codes + i);
      return;
    }
    // Ranges of eight groups at once: dividing is what takes time.
    for (Index first = 0; first < n; first += 8 * length, grids += 8)
      encode_eight(x + first, std::min(8 * length, n - first), length, format, grids,
                   codes + first);
  }

  SQUAT_AVX2 static float symmetric(const float* x, Index n, int bits, int scale_bits,
                                    std::uint8_t* codes) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 squares = _mm256_setzero_ps(), top = squares;
    for (Index i = 0; i < n; i += 8) {
      const __m256 xi = _mm256_loadu_ps(x + i);
      squares = add_product(squares, xi, xi);
      top = _mm256_max_ps(top, _mm256_and_ps(xi, magnitude));
    }
    const float energy = sum_lanes(squares);
    if (!(energy > std::numeric_limits<float>::min())) {
      std::fill_n(codes, n, std::uint8_t{0});
      return 0;
    }
    const float levels = static_cast<float>((1 << bits) - 1), middle = levels / 2;
    const float step = normal_step(bits) * std::sqrt(energy / static_cast<float>(n));
    const float steps[symmetric_steps] = {step, step * 0.86f, step * 1.16f,
                                          2 * horizontal_max(top) / levels};
    const __m256 middles = _mm256_set1_ps(middle);
    __m256 inverses[symmetric_steps], products[symmetric_steps], sizes[symmetric_steps];
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      inverses[k] = _mm256_set1_ps(1 / steps[k]);
      products[k] = sizes[k] = _mm256_setzero_ps();
    }
    for (Index i = 0; i < n; i += 8) {
      const __m256 xi = _mm256_loadu_ps(x + i);
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        const __m256 code =
            _mm256_sub_ps(rounded(on_grid(xi, inverses[k], middles, levels)), middles);
        products[k] = add_product(products[k], code, xi);
        sizes[k] = _mm256_fmadd_ps(code, code, sizes[k]);  // exact
      }
    }
    float best = 0, best_step = step, best_product = 1;
    for (int k = 0; k < symmetric_steps; ++k) {
      const float product = sum_lanes(products[k]);
      const float cosine = product * product / sum_lanes(sizes[k]);
      if (cosine > best) {
        best = cosine;
        best_step = steps[k];
        best_product = product;
      }
    }
    const float scale = energy / best_product, stored = stored_scale(scale, scale_bits);
    const __m256 inverse = _mm256_set1_ps(stored > 0 ? scale / (best_step * stored) : 0.0f);
    for (Index i = 0; i < n; i += 8)
      store64(codes + i, grid_codes(_mm256_loadu_ps(x + i), inverse, middles, levels));
    return stored;
  }

  SQUAT_AVX2 static void rotate(float* x, Index n) {
    const Index block = n & -n;  // 8 at least
    const __m256 norm = _mm256_set1_ps(1 / std::sqrt(static_cast<float>(block)));
    for (Index i = 0; i < n; i += 8) {
      // Within eight: a + b where the index has no bit of the stride, a - b where it has.
      __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x + i), norm);
      y = butterfly(_mm256_permute_ps(y, 0xb1), y, 0xaa);
      y = butterfly(_mm256_permute_ps(y, 0x4e), y, 0xcc);
      y = butterfly(_mm256_permute2f128_ps(y, y, 1), y, 0xf0);
      _mm256_storeu_ps(x + i, y);
    }
    // Two strides at a time, then the one that may be left.
    Index stride = 8;
    for (; 4 * stride <= block; stride *= 4)
      for (Index first = 0; first < n; first += 4 * stride)
        for (Index i = first; i < first + stride; i += 8) {
          const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + stride);
          const __m256 c = _mm256_loadu_ps(x + i + 2 * stride);
          const __m256 d = _mm256_loadu_ps(x + i + 3 * stride);
          const __m256 ab = _mm256_add_ps(a, b), cd = _mm256_add_ps(c, d);
          const __m256 a_b = _mm256_sub_ps(a, b), c_d = _mm256_sub_ps(c, d);
          _mm256_storeu_ps(x + i, _mm256_add_ps(ab, cd));
          _mm256_storeu_ps(x + i + stride, _mm256_add_ps(a_b, c_d));
          _mm256_storeu_ps(x + i + 2 * stride, _mm256_sub_ps(ab, cd));
          _mm256_storeu_ps(x + i + 3 * stride, _mm256_sub_ps(a_b, c_d));
        }
    for (Index first = 0; stride < block && first < n; first += 2 * stride)
      for (Index i = first; i < first + stride; i += 8) {
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + stride);
        _mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
        _mm256_storeu_ps(x + i + stride, _mm256_sub_ps(a, b));
      }
  }

 protected:
  struct Range {
    __m256 scale;
    __m256 zero;
    __m256 inverse;
  };

  SQUAT_AVX2_INLINE static __m256 as_stored(__m256 x, int scale_bits) {
    x = _mm256_min_ps(
        x, _mm256_set1_ps(largest_stored(scale_bits)));  // nothing comes in below minus that
    return scale_bits == 16 ? _mm256_cvtph_ps(_mm256_cvtps_ph(x, 0)) : x;
  }

  /// min_max of affine.hpp, for eight ranges with scales of 16 or 32 bits.
  SQUAT_AVX2_INLINE static Range fit_eight(__m256 low, __m256 high, float most, int scale_bits) {
    const __m256 limit = _mm256_set1_ps(static_cast<float>(largest_storable(scale_bits)));
    const __m256 minus_limit = _mm256_sub_ps(_mm256_setzero_ps(), limit);
    low = _mm256_min_ps(_mm256_max_ps(low, minus_limit), limit);
    high = _mm256_min_ps(_mm256_max_ps(high, minus_limit), limit);
    Range range;
    range.zero = as_stored(low, scale_bits);
    const __m256 levels = _mm256_set1_ps(most);
    const __m256 scale = as_stored(
        _mm256_max_ps(_mm256_div_ps(_mm256_sub_ps(high, range.zero), levels), _mm256_setzero_ps()),
        scale_bits);
    const __m256 spread =
        _mm256_cmp_ps(scale, _mm256_set1_ps(std::numeric_limits<float>::min()), _CMP_GE_OQ);
    range.scale = _mm256_and_ps(scale, spread);
    range.inverse = _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(1.0f), scale), spread);
    return range;
  }

  /// The same for one range, in every lane; scales of any width.
  SQUAT_AVX2_INLINE static Range fit(__m256 low, __m256 high, float levels, int scale_bits,
                                     float expected, Affine<float>& affine) {
    if (scale_bits != 8) {
      const Range range = fit_eight(low, high, levels, scale_bits);
      affine = {_mm256_cvtss_f32(range.scale), _mm256_cvtss_f32(range.zero)};
      return range;
    }
    const float limit = static_cast<float>(largest_storable(8));
    affine = stored_range(std::min(limit, std::max(-limit, _mm256_cvtss_f32(low))),
                          std::min(limit, std::max(-limit, _mm256_cvtss_f32(high))), levels, 8,
                          expected);
    return {_mm256_set1_ps(affine.scale), _mm256_set1_ps(affine.zero),
            _mm256_set1_ps(inverse_scale(affine))};
  }

  SQUAT_AVX2_INLINE static __m256i to_codes(__m256 x, const Range& range, float levels) {
    const __m256 code = _mm256_mul_ps(_mm256_sub_ps(x, range.zero), range.inverse);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), _mm256_set1_ps(levels)));
  }

  SQUAT_AVX2_INLINE static __m256 on_grid(__m256 x, __m256 inverse, __m256 middle, float levels) {
    return _mm256_min_ps(_mm256_max_ps(add_product(middle, x, inverse), _mm256_setzero_ps()),
                         _mm256_set1_ps(levels));
  }
  SQUAT_AVX2_INLINE static __m256 rounded(__m256 x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  SQUAT_AVX2_INLINE static __m256i grid_codes(__m256 x, __m256 inverse, __m256 middle,
                                              float levels) {
    return _mm256_cvtps_epi32(on_grid(x, inverse, middle, levels));
  }

  /// Codes of x[0..n) and their grid.
  SQUAT_AVX2_INLINE static CodeGrid<float> encode_group(const float* x, Index n,
                                                        const GroupFormat& format, float expected,
                                                        std::uint8_t* codes) {
    __m256 low = _mm256_loadu_ps(x), high = low;
    for (Index i = 8; i < n; i += 8) {
      low = _mm256_min_ps(low, _mm256_loadu_ps(x + i));
      high = _mm256_max_ps(high, _mm256_loadu_ps(x + i));
    }
    low = horizontal<true>(low);
    high = horizontal<false>(high);
    const float levels = static_cast<float>((1 << format.bits) - 1);
    if (format.unbiased) {
      const float limit = static_cast<float>(largest_storable(format.scale_bits));
      const float least = std::min(limit, std::max(-limit, _mm256_cvtss_f32(low)));
      const float most = std::min(limit, std::max(-limit, _mm256_cvtss_f32(high)));
      const float step = (most - least) * (1 / levels);
      if (step > std::numeric_limits<float>::min())
        return unbiased(x, n, format, expected, (least + most) * 0.5f, step, codes);
    }
    Affine<float> affine;
    const Range range = fit(low, high, levels, format.scale_bits, expected, affine);
    for (Index i = 0; i < n; i += 8)
      store64(codes + i, to_codes(_mm256_loadu_ps(x + i), range, levels));
    return nearest_grid(affine);
  }

  /// Up to eight groups by min-max.
  SQUAT_AVX2_INLINE static void encode_eight(const float* x, Index n, Index length,
                                             const GroupFormat& format, CodeGrid<float>* grids,
                                             std::uint8_t* codes) {
    alignas(32) float lows[8] = {}, highs[8] = {}, scales[8], zeros[8], inverses[8];
    for (Index first = 0, group = 0; first < n; first += length, ++group) {
      const Index end = std::min(first + length, n);
      __m256 low = _mm256_loadu_ps(x + first), high = low;
      for (Index i = first + 8; i < end; i += 8) {
        low = _mm256_min_ps(low, _mm256_loadu_ps(x + i));
        high = _mm256_max_ps(high, _mm256_loadu_ps(x + i));
      }
      lows[group] = _mm256_cvtss_f32(horizontal<true>(low));
      highs[group] = _mm256_cvtss_f32(horizontal<false>(high));
    }
    const float levels = static_cast<float>((1 << format.bits) - 1);
    const Range ranges =
        fit_eight(_mm256_load_ps(lows), _mm256_load_ps(highs), levels, format.scale_bits);
    _mm256_store_ps(scales, ranges.scale);
    _mm256_store_ps(zeros, ranges.zero);
    _mm256_store_ps(inverses, ranges.inverse);
    for (Index first = 0, group = 0; first < n; first += length, ++group) {
      grids[group] = {{scales[group], zeros[group]}, zeros[group], inverses[group], 0};
      const Range range = {_mm256_set1_ps(scales[group]), _mm256_set1_ps(zeros[group]),
                           _mm256_set1_ps(inverses[group])};
      for (Index i = first; i < std::min(first + length, n); i += 8)
        store64(codes + i, to_codes(_mm256_loadu_ps(x + i), range, levels));
    }
  }

  /// unbiased_codes, once the middle and the step of the whole range are known.
  SQUAT_AVX2 static CodeGrid<float> unbiased(const float* x, Index n, const GroupFormat& format,
                                             float expected, float middle, float step,
                                             std::uint8_t* codes) {
    float parts[3];
    if (clipped_parts(format.bits, parts) == 1)
      return unbiased_of<1>(x, n, format, expected, middle, step, parts, codes);
    return unbiased_of<3>(x, n, format, expected, middle, step, parts, codes);
  }

  template <int Candidates>
  SQUAT_AVX2_INLINE static CodeGrid<float> unbiased_of(const float* x, Index n,
                                                       const GroupFormat& format, float expected,
                                                       float middle, float step, const float* parts,
                                                       std::uint8_t* codes) {
    const float levels = static_cast<float>((1 << format.bits) - 1), count = static_cast<float>(n);
    const __m256 middles = _mm256_set1_ps(middle), halves = _mm256_set1_ps(levels / 2);
    __m256 xs = _mm256_setzero_ps(), squares = xs;
    __m256 inverses[Candidates], cs[Candidates], sizes[Candidates], products[Candidates];
    SQUAT_UNROLL
    for (int k = 0; k < Candidates; ++k) {
      inverses[k] = _mm256_set1_ps(1 / (step * parts[k]));
      cs[k] = sizes[k] = products[k] = _mm256_setzero_ps();
    }
    for (Index i = 0; i < n; i += 8) {
      const __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x + i), middles);
      xs = _mm256_add_ps(xs, y);
      squares = add_product(squares, y, y);
      SQUAT_UNROLL
      for (int k = 0; k < Candidates; ++k) {
        const __m256 code = rounded(on_grid(y, inverses[k], halves, levels));
        cs[k] = _mm256_add_ps(cs[k], code);
        sizes[k] = _mm256_fmadd_ps(code, code, sizes[k]);  // exact
        products[k] = add_product(products[k], code, y);
      }
    }
    GroupSums<float> best{};
    float best_closeness = -1, best_inverse = 0;
    const float sum_x = sum_lanes(xs), sum_xx = sum_lanes(squares);
    SQUAT_UNROLL
    for (int k = 0; k < Candidates; ++k) {
      const GroupSums<float> sums{sum_x, sum_xx, sum_lanes(cs[k]), sum_lanes(sizes[k]),
                                  sum_lanes(products[k])};
      const float near = closeness(sums, count);
      if (near > best_closeness) {
        best = sums;
        best_closeness = near;
        best_inverse = 1 / (step * parts[k]);
      }
    }
    const CodeGrid<float> grid =
        unbiased_grid(best, count, middle, best_inverse, levels, format.scale_bits, expected);
    const __m256 inverse = _mm256_set1_ps(grid.inverse);
    const __m256 stored = _mm256_set1_ps(grid.shift);
    for (Index i = 0; i < n; i += 8)
      store64(codes + i,
              grid_codes(_mm256_sub_ps(_mm256_loadu_ps(x + i), stored), inverse, halves, levels));
    return grid;
  }

  /// sum + a b, rounded twice as the portable version does: not a fused multiply-add.
  SQUAT_AVX2_INLINE static __m256 add_product(__m256 sum, __m256 a, __m256 b) {
    __m256 product = _mm256_mul_ps(a, b);
    __asm__("" : "+x"(product));
    return _mm256_add_ps(sum, product);
  }

  /// As sum_lanes of affine.hpp.
  SQUAT_AVX2_INLINE static float sum_lanes(__m256 x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }

  SQUAT_AVX2_INLINE static __m256 butterfly(__m256 other, __m256 own, const int negative) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(bits, _mm256_set1_epi32(negative));
    const __m256 minus = _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_srli_epi32(_mm256_cmpeq_epi32(set, bits), 31), 31));
    return _mm256_add_ps(other, _mm256_xor_ps(own, minus));
  }

  /// 8 codes, a byte each.
  SQUAT_AVX2_INLINE static void store64(std::uint8_t* target, __m256i x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(words, words));
  }

  /// Minimum or maximum of all eight, in every lane.
  template <bool Min>
  SQUAT_AVX2_INLINE static __m256 horizontal(__m256 x) {
    x = better<Min>(x, _mm256_permute2f128_ps(x, x, 1));
    x = better<Min>(x, _mm256_shuffle_ps(x, x, 0x4e));
    return better<Min>(x, _mm256_shuffle_ps(x, x, 0xb1));
  }

  template <bool Min>
  SQUAT_AVX2_INLINE static __m256 better(__m256 a, __m256 b) {
    return Min ? _mm256_min_ps(a, b) : _mm256_max_ps(a, b);
  }
};

}  // namespace squat::simd

#endif
