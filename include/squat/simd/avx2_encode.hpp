// Encoding in AVX2.
#pragma once

#include <squat/simd/avx2.hpp>
#include <squat/simd/encode_kernels.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

struct Avx2Encode : private Avx2Registers {
  template <int Bits>
  SQUAT_AVX2 static void keys(float* x, Index stride, Index tokens, int scale_bits,
                              std::byte* scales, std::byte* zeros, std::uint8_t* tile,
                              Index tile_stride) {
    __m256 low = _mm256_loadu_ps(x), high = low;
    for (Index t = 1; t < tokens; ++t) {
      const __m256 row = _mm256_loadu_ps(x + t * stride);
      low = _mm256_min_ps(low, row);
      high = _mm256_max_ps(high, row);
    }
    const Range range = fit_eight(low, high, static_cast<float>((1 << Bits) - 1), scale_bits);
    store(range.scale, scale_bits, scales);
    store(range.zero, scale_bits, zeros);
    for (Index t = 0; t < tokens; t += 16, tile += tile_stride) {
      // [four tokens, channels 0-3 | the same tokens, channels 4-7], a byte a code.
      __m256i fours[4];
      SQUAT_UNROLL
      for (int i = 0; i < 4; ++i) {
        float* row = x + (t + 4 * i) * stride;
        const __m256i first =
            _mm256_packs_epi32(encode<Bits>(row, range), encode<Bits>(row + stride, range));
        const __m256i second = _mm256_packs_epi32(encode<Bits>(row + 2 * stride, range),
                                                  encode<Bits>(row + 3 * stride, range));
        fours[i] = _mm256_packus_epi16(first, second);
      }
      pack<Bits>(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                 _mm256_permute2x128_si256(fours[2], fours[3], 0x20),
                 _mm256_permute2x128_si256(fours[0], fours[1], 0x31),
                 _mm256_permute2x128_si256(fours[2], fours[3], 0x31), tile);
    }
  }

  template <int Bits>
  SQUAT_AVX2 static void pack_channels(const std::uint8_t* codes, Index tokens, std::uint8_t* tile,
                                       Index tile_stride) {
    for (Index t = 0; t < tokens; t += 16, codes += 16, tile += tile_stride) {
      __m256i quarters[4];
      SQUAT_UNROLL
      for (int quad = 0; quad < 2; ++quad) {
        const std::uint8_t* row = codes + 4 * quad * tokens;
        const __m128i c0 = load(row), c1 = load(row + tokens);
        const __m128i c2 = load(row + 2 * tokens), c3 = load(row + 3 * tokens);
        const __m128i low01 = _mm_unpacklo_epi8(c0, c1), low23 = _mm_unpacklo_epi8(c2, c3);
        const __m128i high01 = _mm_unpackhi_epi8(c0, c1), high23 = _mm_unpackhi_epi8(c2, c3);
        quarters[2 * quad] =
            _mm256_set_m128i(_mm_unpackhi_epi16(low01, low23), _mm_unpacklo_epi16(low01, low23));
        quarters[2 * quad + 1] = _mm256_set_m128i(_mm_unpackhi_epi16(high01, high23),
                                                  _mm_unpacklo_epi16(high01, high23));
      }
      pack<Bits>(quarters[0], quarters[1], quarters[2], quarters[3], tile);
    }
  }

  template <int Bits>
  SQUAT_AVX2 static void put_codes(const std::uint8_t* codes, Index n, std::uint8_t* tile,
                                   Index tile_stride, Index depth) {
    for (Index c = 0; c < n; c += 16, tile += tile_stride) {
      put<Bits>(_mm256_cvtepu8_epi32(load64(codes + c)), 0, depth, tile);
      if (c + 8 < n) put<Bits>(_mm256_cvtepu8_epi32(load64(codes + c + 8)), 1, depth, tile);
    }
  }

  SQUAT_AVX2 static void octet(float* x, Index tokens, const float* inner,
                               const GroupFormat& format, const float* expected,
                               Affine<float>* affine, std::uint8_t* codes) {
    alignas(32) float moved[128];
    for (Index k = 0; k < 8; ++k) {
      float* const own = x + k * tokens;
      for (Index t = 0; t < tokens; t += 32) {
        __m256 y[4];
        SQUAT_UNROLL
        for (int v = 0; v < 4; ++v) y[v] = _mm256_loadu_ps(own + t + 8 * v);
        for (Index i = 0; i < k; ++i) {
          const __m256 factor = _mm256_broadcast_ss(inner + 8 * k + i);
          SQUAT_UNROLL
          for (int v = 0; v < 4; ++v)
            y[v] = add_product(y[v], factor, _mm256_loadu_ps(x + i * tokens + t + 8 * v));
        }
        SQUAT_UNROLL
        for (int v = 0; v < 4; ++v) _mm256_store_ps(moved + t + 8 * v, y[v]);
      }
      std::uint8_t* const own_codes = codes + k * tokens;
      affine[k] =
          encode_group(moved, tokens, format, expected == nullptr ? 0 : expected[k], own_codes);
      const __m256 scale = _mm256_set1_ps(affine[k].scale), zero = _mm256_set1_ps(affine[k].zero);
      for (Index t = 0; t < tokens; t += 8) {
        const __m256 code = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load64(own_codes + t)));
        _mm256_storeu_ps(own + t,
                         _mm256_sub_ps(add_product(zero, code, scale), _mm256_loadu_ps(own + t)));
      }
    }
  }

  SQUAT_AVX2 static Affine<float> group(const float* x, Index n, const GroupFormat& format,
                                        std::uint8_t* codes) {
    return encode_group(x, n, format, 0, codes);
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
        const __m256 code = _mm256_sub_ps(
            _mm256_cvtepi32_ps(grid_codes(xi, inverses[k], middles, levels)), middles);
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
    for (Index stride = 8; stride < block; stride *= 2)
      for (Index first = 0; first < n; first += 2 * stride)
        for (Index i = first; i < first + stride; i += 8) {
          const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + stride);
          _mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
          _mm256_storeu_ps(x + i + stride, _mm256_sub_ps(a, b));
        }
  }

  SQUAT_AVX2 static void add_products(const float* a, Index a_stride, const float* b,
                                      Index b_stride, float* out, Index out_stride, Index rows,
                                      Index n, Index columns) {
    for (Index column = 0; column < columns; column += 16) {
      const bool wide = column + 8 < columns;
      for (Index row = 0; row < rows; row += 4) {
        if (wide)
          add_products_block<2>(a + row * a_stride, a_stride, b + column, b_stride,
                                out + row * out_stride + column, out_stride, n);
        else
          add_products_block<1>(a + row * a_stride, a_stride, b + column, b_stride,
                                out + row * out_stride + column, out_stride, n);
      }
    }
  }

  template <int Bits>
  static constexpr EncodeKernels kernels() {
    return {keys<Bits>, pack_channels<Bits>, put_codes<Bits>, octet,
            group,      symmetric,           rotate,          add_products};
  }

 private:
  struct Range {
    __m256 scale;
    __m256 zero;
    __m256 inverse;
  };

  SQUAT_AVX2_INLINE static __m256 as_stored(__m256 x, int scale_bits) {
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
    affine = stored_range(std::min(std::max(_mm256_cvtss_f32(low), -limit), limit),
                          std::min(std::max(_mm256_cvtss_f32(high), -limit), limit), levels, 8,
                          expected);
    return {_mm256_set1_ps(affine.scale), _mm256_set1_ps(affine.zero),
            _mm256_set1_ps(inverse_scale(affine))};
  }

  SQUAT_AVX2_INLINE static __m128i load(const std::uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }

  SQUAT_AVX2_INLINE static void store(__m256 x, int scale_bits, std::byte* target) {
    if (scale_bits == 16)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(x, 0));
    else
      _mm256_storeu_ps(reinterpret_cast<float*>(target), x);
  }

  SQUAT_AVX2_INLINE static __m256i to_codes(__m256 x, const Range& range, float levels) {
    const __m256 code = _mm256_mul_ps(_mm256_sub_ps(x, range.zero), range.inverse);
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), _mm256_set1_ps(levels)));
  }

  SQUAT_AVX2_INLINE static __m256i grid_codes(__m256 x, __m256 inverse, __m256 middle,
                                              float levels) {
    return _mm256_cvtps_epi32(
        _mm256_min_ps(_mm256_max_ps(add_product(middle, x, inverse), _mm256_setzero_ps()),
                      _mm256_set1_ps(levels)));
  }

  /// Codes of x[0..n) and their affine.
  SQUAT_AVX2_INLINE static Affine<float> encode_group(const float* x, Index n,
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
      const float least = std::min(std::max(_mm256_cvtss_f32(low), -limit), limit);
      const float most = std::min(std::max(_mm256_cvtss_f32(high), -limit), limit);
      const float step = (most - least) * (1 / levels);
      if (step > std::numeric_limits<float>::min())
        return unbiased(x, n, format, expected, (least + most) * 0.5f, step, codes);
    }
    Affine<float> affine;
    const Range range = fit(low, high, levels, format.scale_bits, expected, affine);
    for (Index i = 0; i < n; i += 8)
      store64(codes + i, to_codes(_mm256_loadu_ps(x + i), range, levels));
    return affine;
  }

  /// unbiased_codes, once the middle and the step of the whole range are known.
  SQUAT_AVX2 static Affine<float> unbiased(const float* x, Index n, const GroupFormat& format,
                                           float expected, float middle, float step,
                                           std::uint8_t* codes) {
    float parts[3];
    if (clipped_parts(format.bits, parts) == 1)
      return unbiased_of<1>(x, n, format, expected, middle, step, parts, codes);
    return unbiased_of<3>(x, n, format, expected, middle, step, parts, codes);
  }

  template <int Candidates>
  SQUAT_AVX2_INLINE static Affine<float> unbiased_of(const float* x, Index n,
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
        const __m256 code = _mm256_cvtepi32_ps(grid_codes(y, inverses[k], halves, levels));
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
    const UnbiasedGrid<float> grid =
        unbiased_grid(best, count, middle, best_inverse, levels, format.scale_bits, expected);
    const __m256 inverse = _mm256_set1_ps(grid.inverse_step);
    const __m256 stored = _mm256_set1_ps(grid.middle);
    for (Index i = 0; i < n; i += 8)
      store64(codes + i,
              grid_codes(_mm256_sub_ps(_mm256_loadu_ps(x + i), stored), inverse, halves, levels));
    return grid.affine;
  }

  /// Codes of eight numbers, which become their errors.
  template <int Bits>
  SQUAT_AVX2_INLINE static __m256i encode(float* x, const Range& range) {
    const __m256 xi = _mm256_loadu_ps(x);
    const __m256i code = to_codes(xi, range, static_cast<float>((1 << Bits) - 1));
    const __m256 stored = add_product(range.zero, _mm256_cvtepi32_ps(code), range.scale);
    _mm256_storeu_ps(x, _mm256_sub_ps(stored, xi));
    return code;
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

  /// 32 codes, a byte each.
  SQUAT_AVX2_INLINE static __m256i narrow_unsigned(const __m256i x[4]) {
    // Packing works within 128-bit halves; this puts the eight groups of four back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(
        _mm256_packus_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3])), order);
  }

  /// 8 codes, a byte each.
  SQUAT_AVX2_INLINE static void store64(std::uint8_t* target, __m256i x) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(words, words));
  }

  /// A tile from its quarters (see CodeTile).
  template <int Bits>
  SQUAT_AVX2_INLINE static void pack(__m256i q0, __m256i q1, __m256i q2, __m256i q3,
                                     std::uint8_t* tile) {
    __m256i* target = reinterpret_cast<__m256i*>(tile);
    if constexpr (Bits == 8) {
      _mm256_storeu_si256(target, q0);
      _mm256_storeu_si256(target + 1, q1);
      _mm256_storeu_si256(target + 2, q2);
      _mm256_storeu_si256(target + 3, q3);
    } else if constexpr (Bits == 4) {
      _mm256_storeu_si256(target, _mm256_or_si256(q0, _mm256_slli_epi16(q2, 4)));
      _mm256_storeu_si256(target + 1, _mm256_or_si256(q1, _mm256_slli_epi16(q3, 4)));
    } else if constexpr (Bits == 1) {
      store_plane(interleave(q0, q1, q2, q3), tile);
    } else {
      if constexpr (Bits == 3) {
        const __m256i one = _mm256_set1_epi8(1);
        store_plane(interleave(_mm256_and_si256(_mm256_srli_epi16(q0, 2), one),
                               _mm256_and_si256(_mm256_srli_epi16(q1, 2), one),
                               _mm256_and_si256(_mm256_srli_epi16(q2, 2), one),
                               _mm256_and_si256(_mm256_srli_epi16(q3, 2), one)),
                    tile + 32);
        const __m256i three = _mm256_set1_epi8(3);
        q0 = _mm256_and_si256(q0, three);
        q1 = _mm256_and_si256(q1, three);
        q2 = _mm256_and_si256(q2, three);
        q3 = _mm256_and_si256(q3, three);
      }
      _mm256_storeu_si256(target, interleave(q0, q1, q2, q3));
    }
  }

  /// A plane of one bit: those of codes 16 to 31 go above those of codes 0 to 15.
  SQUAT_AVX2_INLINE static void store_plane(__m256i bits, std::uint8_t* target) {
    const __m128i upper = _mm256_extracti128_si256(bits, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                     _mm_or_si128(_mm256_castsi256_si128(bits), _mm_add_epi8(upper, upper)));
  }

  /// Two bits of each quarter in every byte.
  SQUAT_AVX2_INLINE static __m256i interleave(__m256i q0, __m256i q1, __m256i q2, __m256i q3) {
    return _mm256_or_si256(_mm256_or_si256(q0, _mm256_slli_epi16(q1, 2)),
                           _mm256_or_si256(_mm256_slli_epi16(q2, 4), _mm256_slli_epi16(q3, 6)));
  }

  /// Sets the codes of lanes 8 half to 8 half + 7 at one depth of a tile. Four depths of a lane
  /// share a 32-bit word.
  template <int Bits>
  SQUAT_AVX2_INLINE static void put(__m256i code, int half, Index depth, std::uint8_t* tile) {
    const int byte = static_cast<int>(8 * (depth % 4)), quad = static_cast<int>(depth / 4);
    if constexpr (Bits == 8) {
      set_bits(tile + 32 * (2 * quad + half), code, 255, byte);
    } else if constexpr (Bits == 4) {
      set_bits(tile + 32 * half, code, 15, byte + 4 * quad);
    } else {
      const int shift = byte + 2 * (2 * quad + half);
      if constexpr (Bits > 1)
        set_bits(tile, _mm256_and_si256(code, _mm256_set1_epi32(3)), 3, shift);
      if constexpr (Bits != 2) {
        const __m256i high = Bits == 1 ? code : _mm256_srli_epi32(code, 2);
        // Lanes 4 to 7 have the bit above that of lanes 0 to 3.
        const __m128i bits = _mm_or_si128(_mm256_castsi256_si128(high),
                                          _mm_slli_epi32(_mm256_extracti128_si256(high, 1), 1));
        __m128i* plane = reinterpret_cast<__m128i*>(tile + (Bits == 1 ? 0 : 32));
        const __m128i count = _mm_cvtsi32_si128(shift);
        const __m128i mask = _mm_sll_epi32(_mm_set1_epi32(3), count);
        _mm_storeu_si128(plane, _mm_or_si128(_mm_andnot_si128(mask, _mm_loadu_si128(plane)),
                                             _mm_sll_epi32(bits, count)));
      }
    }
  }

  SQUAT_AVX2_INLINE static void set_bits(std::uint8_t* words, __m256i bits, int mask, int shift) {
    const __m128i count = _mm_cvtsi32_si128(shift);
    const __m256i cleared =
        _mm256_andnot_si256(_mm256_sll_epi32(_mm256_set1_epi32(mask), count),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words),
                        _mm256_or_si256(cleared, _mm256_sll_epi32(bits, count)));
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

  /// Four rows by 8 * Vectors columns.
  template <int Vectors>
  SQUAT_AVX2_INLINE static void add_products_block(const float* a, Index a_stride, const float* b,
                                                   Index b_stride, float* out, Index out_stride,
                                                   Index n) {
    __m256 sum[4][Vectors];
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        sum[row][v] = _mm256_loadu_ps(out + row * out_stride + 8 * v);
    }
    for (Index i = 0; i < n; ++i, b += b_stride) {
      SQUAT_UNROLL
      for (int row = 0; row < 4; ++row) {
        const __m256 factor = _mm256_broadcast_ss(a + row * a_stride + i);
        SQUAT_UNROLL
        for (int v = 0; v < Vectors; ++v)
          sum[row][v] = _mm256_fmadd_ps(factor, _mm256_loadu_ps(b + 8 * v), sum[row][v]);
      }
    }
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) {
      SQUAT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        _mm256_storeu_ps(out + row * out_stride + 8 * v, sum[row][v]);
    }
  }
};

}  // namespace squat::simd

#endif
