// Grids of groups of numbers in AVX2, up to four groups side by side.
#pragma once

#include <squat/simd/avx2_affine.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

/// What finding a grid takes is mostly waiting: for sums, and for divisions. Four groups wait
/// together, a lane each. Every number is that of the portable version, to the bit.
struct Avx2Grids : Avx2Affine {
 protected:
  /// CodeGrid of up to four groups.
  struct alignas(16) Grids {
    float scale[4], zero[4], shift[4], inverse[4], origin[4];

    CodeGrid<float> operator[](Index group) const {
      return {{scale[group], zero[group]}, shift[group], inverse[group], origin[group]};
    }
  };

  /// Grids of `count` groups of n numbers, 1 to 4 groups that begin `stride` apart in x.
  SQUAT_AVX2 static void find_grids(const float* x, Index stride, Index count, Index n,
                                    const GroupFormat& format, float expected, Grids& grids) {
    if (format.fit == GridFit::symmetric)
      return find_symmetric(x, stride, count, n, format.bits, format.scale_bits, grids);
    __m256 lows[4], highs[4];
    SQUAT_UNROLL
    for (Index group = 0; group < 4; ++group) {
      const float* const own = x + std::min(group, count - 1) * stride;
      __m256 low = _mm256_loadu_ps(own), high = low;
      for (Index i = 8; i < n; i += 8) {
        low = _mm256_min_ps(low, _mm256_loadu_ps(own + i));
        high = _mm256_max_ps(high, _mm256_loadu_ps(own + i));
      }
      lows[group] = low;
      highs[group] = high;
    }
    const float levels = static_cast<float>((1 << format.bits) - 1);
    const __m128 limit = _mm_set1_ps(static_cast<float>(largest_storable(format.scale_bits)));
    const __m128 low = within(reduce<MinFloats>(lows), limit);
    const __m128 high = within(reduce<MaxFloats>(highs), limit);
    if (format.fit == GridFit::unbiased)
      find_unbiased(x, stride, count, n, format, low, high, expected, grids);
    else
      store_nearest(stored_range(low, high, levels, format.scale_bits, expected), grids);
  }

  /// Where eight numbers lie on their grid; rounded, that is their codes.
  SQUAT_AVX2_INLINE static __m256 on_grid(__m256 x, __m256 inverse, __m256 origin, __m256 levels) {
    return _mm256_min_ps(_mm256_max_ps(add_product(origin, x, inverse), _mm256_setzero_ps()),
                         levels);
  }

 private:
  SQUAT_AVX2_INLINE static void store_nearest(const Affines& affines, Grids& grids) {
    const __m128 inverse = _mm_div_ps(_mm_set1_ps(1.0f), affines.scale);
    _mm_store_ps(grids.scale, affines.scale);
    _mm_store_ps(grids.zero, affines.zero);
    _mm_store_ps(grids.shift, affines.zero);
    _mm_store_ps(grids.inverse, if_positive(affines.scale, inverse));
    _mm_store_ps(grids.origin, _mm_setzero_ps());
  }

  /// Sums over four groups of codes, codes^2 and x * code.
  struct CodeSums {
    __m256 c[4], cc[4], xc[4];
  };

  /// unbiased_codes, but for the codes.
  SQUAT_AVX2_INLINE static void find_unbiased(const float* x, Index stride, Index count, Index n,
                                              const GroupFormat& format, __m128 low, __m128 high,
                                              float expected, Grids& grids) {
    const float levels = static_cast<float>((1 << format.bits) - 1);
    const __m128 middle = _mm_mul_ps(_mm_add_ps(low, high), _mm_set1_ps(0.5f));
    const __m128 step = _mm_mul_ps(_mm_sub_ps(high, low), _mm_set1_ps(1 / levels));
    float parts[3];
    const int candidates = clipped_parts(format.bits, parts);
    alignas(16) float middles[4], inverses[4];
    _mm_store_ps(middles, middle);

    __m256 sums[4] = {}, squares[4] = {};
    CodeSums codes = {};
    __m128 sum_x = _mm_setzero_ps(), sum_xx = sum_x, best_closeness = _mm_set1_ps(-1);
    __m128 best_inverse = sum_x, best_c = sum_x, best_xc = sum_x;
    const __m128 numbers = _mm_set1_ps(static_cast<float>(n));
    for (int k = 0; k < candidates; ++k) {
      const __m128 inverse = _mm_div_ps(_mm_set1_ps(1.0f), _mm_mul_ps(step, _mm_set1_ps(parts[k])));
      _mm_store_ps(inverses, inverse);
      for (Index group = 0; group < count; ++group) {
        const float* const own = x + group * stride;
        if (k == 0) add_up(own, n, middles[group], sums[group], squares[group]);
        add_up_codes(own, n, middles[group], inverses[group], levels, codes, group);
      }
      if (k == 0) {
        sum_x = reduce<AddFloats>(sums);
        sum_xx = reduce<AddFloats>(squares);
      }
      const __m128 c = reduce<AddFloats>(codes.c), cc = reduce<AddFloats>(codes.cc);
      const __m128 xc = reduce<AddFloats>(codes.xc);
      const __m128 near = closeness(sum_x, c, cc, xc, numbers);
      const __m128 better = _mm_cmpgt_ps(near, best_closeness);
      best_closeness = _mm_blendv_ps(best_closeness, near, better);
      best_inverse = _mm_blendv_ps(best_inverse, inverse, better);
      best_c = _mm_blendv_ps(best_c, c, better);
      best_xc = _mm_blendv_ps(best_xc, xc, better);
    }
    store_unbiased(sum_x, sum_xx, best_c, best_xc, numbers, middle, best_inverse, format.scale_bits,
                   levels, expected, grids);

    const __m128 least = _mm_set1_ps(std::numeric_limits<float>::min());
    const int spread = _mm_movemask_ps(_mm_cmpgt_ps(step, least));
    if (spread == 15) return;
    Grids constant;
    store_nearest(stored_range(low, high, levels, format.scale_bits, expected), constant);
    for (Index group = 0; group < count; ++group)
      if (!(spread >> group & 1)) {
        grids.scale[group] = constant.scale[group];
        grids.zero[group] = constant.zero[group];
        grids.shift[group] = constant.shift[group];
        grids.inverse[group] = constant.inverse[group];
        grids.origin[group] = 0;
      }
  }

  SQUAT_AVX2_INLINE static void add_up(const float* x, Index n, float middle, __m256& sum,
                                       __m256& squares) {
    const __m256 middles = _mm256_set1_ps(middle);
    sum = squares = _mm256_setzero_ps();
    for (Index i = 0; i < n; i += 8) {
      const __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x + i), middles);
      sum = _mm256_add_ps(sum, y);
      squares = add_product(squares, y, y);
    }
  }

  SQUAT_AVX2_INLINE static void add_up_codes(const float* x, Index n, float middle, float inverse,
                                             float levels, CodeSums& sums, Index group) {
    const __m256 middles = _mm256_set1_ps(middle), inverses = _mm256_set1_ps(inverse);
    const __m256 halves = _mm256_set1_ps(levels / 2), most = _mm256_set1_ps(levels);
    __m256 c = _mm256_setzero_ps(), cc = c, xc = c;
    for (Index i = 0; i < n; i += 8) {
      const __m256 y = _mm256_sub_ps(_mm256_loadu_ps(x + i), middles);
      const __m256 code = _mm256_round_ps(on_grid(y, inverses, halves, most),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      c = _mm256_add_ps(c, code);
      cc = _mm256_fmadd_ps(code, code, cc);  // exact
      xc = add_product(xc, code, y);
    }
    sums.c[group] = c;
    sums.cc[group] = cc;
    sums.xc[group] = xc;
  }

  /// a - b c / n
  SQUAT_AVX2_INLINE static __m128 without_mean(__m128 a, __m128 b, __m128 c, __m128 n) {
    return _mm_sub_ps(a, _mm_div_ps(_mm_mul_ps(b, c), n));
  }

  SQUAT_AVX2_INLINE static __m128 closeness(__m128 x, __m128 c, __m128 cc, __m128 xc, __m128 n) {
    xc = without_mean(xc, x, c, n);
    cc = without_mean(cc, c, c, n);
    return if_positive(cc, _mm_div_ps(_mm_mul_ps(xc, xc), cc));
  }

  /// unbiased_grid
  SQUAT_AVX2_INLINE static void store_unbiased(__m128 x, __m128 xx, __m128 c, __m128 xc, __m128 n,
                                               __m128 middle, __m128 inverse_step, int scale_bits,
                                               float levels, float expected, Grids& grids) {
    const __m128 half = _mm_set1_ps(levels / 2);
    xx = without_mean(xx, x, x, n);
    xc = without_mean(xc, x, c, n);
    const __m128 scale = if_positive(xc, _mm_div_ps(xx, xc));
    const __m128 rest = _mm_sub_ps(x, product(scale, _mm_sub_ps(c, product(half, n))));
    const __m128 wanted = _mm_add_ps(middle, _mm_div_ps(rest, n));
    Affines affines;
    if (scale_bits == 8) {
      affines = stored_affine8(scale, wanted, levels, expected);
    } else {
      affines.scale = or_zero(as_stored(scale, scale_bits));
      affines.zero = as_stored(_mm_sub_ps(wanted, product(half, affines.scale)), scale_bits);
    }
    const __m128 stored = _mm_add_ps(affines.zero, product(half, affines.scale));
    const __m128 ratio = _mm_div_ps(scale, affines.scale);
    _mm_store_ps(grids.scale, affines.scale);
    _mm_store_ps(grids.zero, affines.zero);
    _mm_store_ps(grids.shift, _mm_add_ps(middle, _mm_sub_ps(stored, wanted)));
    _mm_store_ps(grids.inverse, if_positive(affines.scale, _mm_mul_ps(inverse_step, ratio)));
    _mm_store_ps(grids.origin, half);
  }

  /// symmetric_codes, but for the codes.
  SQUAT_AVX2_INLINE static void find_symmetric(const float* x, Index stride, Index count, Index n,
                                               int bits, int scale_bits, Grids& grids) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 squares[4] = {}, tops[4] = {};
    for (Index group = 0; group < count; ++group) {
      const float* const own = x + group * stride;
      for (Index i = 0; i < n; i += 8) {
        const __m256 xi = _mm256_loadu_ps(own + i);
        squares[group] = add_product(squares[group], xi, xi);
        tops[group] = _mm256_max_ps(tops[group], _mm256_andnot_ps(sign, xi));
      }
    }
    const float levels = static_cast<float>((1 << bits) - 1);
    const __m128 energy = reduce<AddFloats>(squares), top = reduce<MaxFloats>(tops);
    const __m128 step =
        _mm_mul_ps(_mm_set1_ps(normal_step(bits)),
                   _mm_sqrt_ps(_mm_div_ps(energy, _mm_set1_ps(static_cast<float>(n)))));
    const __m128 steps[symmetric_steps] = {step, _mm_mul_ps(step, _mm_set1_ps(0.86f)),
                                           _mm_mul_ps(step, _mm_set1_ps(1.16f)),
                                           _mm_div_ps(_mm_add_ps(top, top), _mm_set1_ps(levels))};
    alignas(16) float inverses[symmetric_steps][4];
    for (int k = 0; k < symmetric_steps; ++k)
      _mm_store_ps(inverses[k], _mm_div_ps(_mm_set1_ps(1.0f), steps[k]));

    // By group, a lane a step, and then the other way round.
    __m128 products[4] = {}, sizes[4] = {};
    for (Index group = 0; group < count; ++group)
      add_up_symmetric(x + group * stride, n, inverses, group, levels, products[group],
                       sizes[group]);
    _MM_TRANSPOSE4_PS(products[0], products[1], products[2], products[3]);
    _MM_TRANSPOSE4_PS(sizes[0], sizes[1], sizes[2], sizes[3]);
    __m128 best = _mm_setzero_ps(), best_step = step, best_product = _mm_set1_ps(1.0f);
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      const __m128 cosine = _mm_div_ps(_mm_mul_ps(products[k], products[k]), sizes[k]);
      const __m128 better = _mm_cmpgt_ps(cosine, best);
      best = _mm_blendv_ps(best, cosine, better);
      best_step = _mm_blendv_ps(best_step, steps[k], better);
      best_product = _mm_blendv_ps(best_product, products[k], better);
    }

    const __m128 scale = _mm_div_ps(energy, best_product);
    __m128 stored = _mm_max_ps(_mm_setzero_ps(), scale);
    stored = scale_bits == 8 ? from_bytes(to_bytes(stored)) : as_stored(stored, scale_bits);
    const __m128 spread = _mm_cmpgt_ps(energy, _mm_set1_ps(std::numeric_limits<float>::min()));
    const __m128 inverse = _mm_div_ps(scale, _mm_mul_ps(best_step, stored));
    _mm_store_ps(grids.scale, _mm_and_ps(spread, stored));
    _mm_store_ps(grids.zero, _mm_setzero_ps());
    _mm_store_ps(grids.shift, _mm_setzero_ps());
    _mm_store_ps(grids.inverse, _mm_and_ps(spread, if_positive(stored, inverse)));
    _mm_store_ps(grids.origin, _mm_and_ps(spread, _mm_set1_ps(levels / 2)));
  }

  /// Sums of x * code and code^2, codes counted from the middle, a lane a step.
  SQUAT_AVX2_INLINE static void add_up_symmetric(const float* x, Index n,
                                                 const float (&inverses)[symmetric_steps][4],
                                                 Index group, float levels, __m128& products,
                                                 __m128& sizes) {
    const __m256 middle = _mm256_set1_ps(levels / 2), half = _mm256_set1_ps(0.5f);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 inverse[symmetric_steps], xc[symmetric_steps], cc[symmetric_steps];
    SQUAT_UNROLL
    for (int k = 0; k < symmetric_steps; ++k) {
      inverse[k] = _mm256_broadcast_ss(&inverses[k][group]);
      xc[k] = cc[k] = _mm256_setzero_ps();
    }
    for (Index i = 0; i < n; i += 8) {
      const __m256 size = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
      SQUAT_UNROLL
      for (int k = 0; k < symmetric_steps; ++k) {
        const __m256 steps = _mm256_min_ps(_mm256_mul_ps(size, inverse[k]), middle);
        const __m256 code =
            _mm256_add_ps(_mm256_round_ps(steps, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC), half);
        xc[k] = add_product(xc[k], code, size);
        cc[k] = _mm256_fmadd_ps(code, code, cc[k]);  // exact
      }
    }
    products = reduce<AddFloats>(xc);
    sizes = reduce<AddFloats>(cc);
  }
};

}  // namespace squat::simd

#endif
