// The vector operations in AVX2, FMA and F16C.
#pragma once

#include <cstddef>
#include <squat/simd/avx2_dot.hpp>

#if defined(SQUAT_HAVE_AVX2)

namespace squat::simd {

struct Avx2 : Avx2Dot {
  SQUAT_AVX2 static void widen(const std::uint16_t* scales, const std::uint16_t* zeros, Index n,
                               float centre, float* scale, float* middle) {
    const __m256 c = _mm256_set1_ps(centre);
    for (Index i = 0; i < n; i += 8) {
      const __m256 s = _mm256_cvtph_ps(load128(scales + i));
      _mm256_storeu_ps(scale + i, s);
      _mm256_storeu_ps(middle + i,
                       zeros == nullptr
                           ? _mm256_setzero_ps()
                           : _mm256_fmadd_ps(c, s, _mm256_cvtph_ps(load128(zeros + i))));
    }
  }

  SQUAT_AVX2 static void widen8(const std::uint8_t* scales, const std::int8_t* middles,
                                const float* expected, Index n, float step, float* scale,
                                float* middle) {
    for (Index i = 0; i < n; i += 8) {
      const __m256 s = _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(load64(scales + i)), 7));
      _mm256_storeu_ps(scale + i, s);
      __m256 m = expected == nullptr ? _mm256_setzero_ps() : _mm256_loadu_ps(expected + i);
      if (middles != nullptr)
        m = _mm256_fmadd_ps(_mm256_mul_ps(s, _mm256_set1_ps(step)),
                            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load64(middles + i))), m);
      _mm256_storeu_ps(middle + i, m);
    }
  }

  /// 16-bit fixed point, zero up to a multiple of 32. A unit of 0 marks zeros.
  SQUAT_AVX2 static float fix(const float* x, Index n, std::int16_t* fixed) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 top = _mm256_setzero_ps();
    for (Index i = 0; i < n; i += 8)
      top = _mm256_max_ps(top, _mm256_and_ps(_mm256_loadu_ps(x + i), magnitude));
    const float highest = horizontal_max(top);
    const __m256 inverse = _mm256_set1_ps(32767.0f / std::max(highest, 1e-30f));
    Index i = 0;
    for (; i < n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(fixed + i),
                       narrow16(round(_mm256_loadu_ps(x + i), inverse)));
    for (; i % 32 != 0; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(fixed + i), _mm_setzero_si128());
    return highest * (1 / 32767.0f);
  }

  /// Products, their maxima and the operands are found 16 at a time in fixed point; only what
  /// `offset` needs of x is floating point.
  SQUAT_AVX2 static bool try_fold8(const float* x, Index x_stride, const std::int16_t* fixed,
                                   const float* units, Index count, const float* scale,
                                   const float* middle, Index n, float centre, float crest,
                                   float largest_alpha, std::int8_t* operands, Folded* folded) {
    alignas(32) std::int16_t fixed_scale[max_length];
    alignas(32) std::int16_t products[max_length];
    const float scale_unit = fix(scale, n, fixed_scale);
    const __m256i one = _mm256_set1_epi16(1);
    const float* rows[max_heads];
    __m256i sums[max_heads], squares[max_heads];
    alignas(16) float row_units[max_heads];
    alignas(16) std::int32_t factors[max_heads];
    for (Index row = 0; row < max_heads; ++row) {
      // Absent rows stand for the first one.
      const Index source = row < count ? row : 0;
      rows[row] = x + source * x_stride;
      const std::int16_t* f = fixed + source * max_length;
      __m256i top = _mm256_setzero_si256();
      for (Index i = 0; i < n; i += 32) {
        const __m256i a = _mm256_mulhrs_epi16(load256(f + i), load256(fixed_scale + i));
        const __m256i b = _mm256_mulhrs_epi16(load256(f + i + 16), load256(fixed_scale + i + 16));
        store256(products + i, a);
        store256(products + i + 16, b);
        top = _mm256_max_epi16(top, _mm256_max_epi16(_mm256_abs_epi16(a), _mm256_abs_epi16(b)));
      }
      // Below 1024 the products are too coarse to be rounded again; zeros only are fine.
      const int highest = horizontal_max16(top);
      row_units[row] = units[source] * scale_unit;
      if (highest < 1024 && row_units[row] > 0) return false;
      factors[row] = std::min((127 << 15) / std::max(highest, 1), 32767);
      const __m256i factor = _mm256_set1_epi16(static_cast<std::int16_t>(factors[row]));
      std::int8_t* target = operands + row * max_length;
      sums[row] = squares[row] = _mm256_setzero_si256();
      for (Index i = 0; i < n; i += 32) {
        // Packing works within 128-bit halves: quarters 0, 2, 1, 3 go back in order.
        const __m256i bytes = _mm256_permute4x64_epi64(
            _mm256_packs_epi16(_mm256_mulhrs_epi16(load256(products + i), factor),
                               _mm256_mulhrs_epi16(load256(products + i + 16), factor)),
            0xd8);
        store256(target + i, bytes);
        sums[row] = _mm256_add_epi64(sums[row], sum_bytes(bytes));
        const __m256i sizes = _mm256_abs_epi8(bytes);
        squares[row] = _mm256_add_epi32(squares[row],
                                        _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, sizes), one));
      }
    }
    // products are in units of 2^15 units; an operand is one of them times factor / 2^15.
    const __m128 alpha =
        _mm_div_ps(_mm_mul_ps(_mm_load_ps(row_units), _mm_set1_ps(32768.0f * 32768.0f)),
                   _mm_cvtepi32_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(factors))));
    const __m128i bias = _mm_set1_epi32(static_cast<int>(128 * ((n + 31) / 32 * 32)));
    store_folded(alpha, dot4(rows, middle, n), _mm_cvtepi32_ps(_mm_sub_epi32(sum4(sums), bias)),
                 centre, folded);
    const __m128 energy = _mm_cvtepi32_ps(sum4_32(squares));
    const __m128 least = _mm_set1_ps(127.0f * 127.0f * static_cast<float>(n) / (crest * crest));
    const __m128 too_coarse =
        _mm_or_ps(_mm_and_ps(_mm_cmplt_ps(energy, least), _mm_cmpgt_ps(energy, _mm_setzero_ps())),
                  _mm_cmpgt_ps(alpha, _mm_set1_ps(largest_alpha)));
    return _mm_movemask_ps(too_coarse) == 0;
  }

  SQUAT_AVX2 static void fold8(const float* x, Index x_stride, Index count, const float* scale,
                               const float* middle, Index groups, Index n, float centre,
                               std::int8_t* operands, Folded* folded) {
    // Scales relative to the largest of their group, probabilities to the largest of their row.
    alignas(32) float relative_scale[max_block];
    alignas(32) float relative_x[max_heads][max_block];
    float highest[max_heads] = {};
    const float* rows[max_heads];
    for (Index row = 0; row < max_heads; ++row) {
      rows[row] = relative_x[row < count ? row : 0];  // absent rows stand for the first one
      if (row < count)
        highest[row] = relate(x + row * x_stride, n, 127.0f, relative_x[row]);
      else
        highest[row] = highest[0];
    }
    const __m128 unit = _mm_mul_ps(_mm_loadu_ps(highest), _mm_set1_ps(1 / 127.0f));
    for (Index group = 0; group < groups; ++group, scale += n, middle += n) {
      const float highest_scale = relate(scale, n, 1.0f, relative_scale);
      __m256i sums[max_heads];
      SQUAT_UNROLL
      for (int row = 0; row < max_heads; ++row) {
        sums[row] = _mm256_setzero_si256();
        for (Index i = 0; i < n; i += 32) {
          __m256i rounded[4];
          SQUAT_UNROLL
          for (int k = 0; k < 4; ++k)
            rounded[k] = round(_mm256_load_ps(relative_scale + i + 8 * k),
                               _mm256_load_ps(rows[row] + i + 8 * k));
          const __m256i bytes = narrow(rounded[0], rounded[1], rounded[2], rounded[3]);
          store256(operands + (group * max_heads + row) * max_block + i, bytes);
          // Nothing is negative here.
          sums[row] = _mm256_add_epi64(sums[row], _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
        }
      }
      const __m128 alpha = _mm_mul_ps(unit, _mm_set1_ps(highest_scale));
      store_folded(alpha, _mm_mul_ps(unit, dot4(rows, middle, n)), _mm_cvtepi32_ps(sum4(sums)),
                   centre, folded + group * max_heads);
    }
  }

  SQUAT_AVX2 static bool is_fine8(const std::int8_t* operands, const Folded* folded, Index count,
                                  Index groups, Index n, std::int32_t least) {
    const __m256i one = _mm256_set1_epi16(1);
    int too_few = 0;
    for (Index group = 0; group < groups; ++group, operands += max_heads * max_block) {
      __m256i squares[max_heads];
      SQUAT_UNROLL
      for (int row = 0; row < max_heads; ++row) {
        // Absent rows stand for the first one.
        const std::int8_t* source = operands + (row < count ? row : 0) * max_block;
        squares[row] = _mm256_setzero_si256();
        for (Index i = 0; i < n; i += 32) {
          const __m256i bytes = load256(source + i);  // none is negative
          squares[row] = _mm256_add_epi32(
              squares[row], _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, bytes), one));
        }
      }
      Index alphas = 0;
      for (Index row = 0; row < count; ++row)
        alphas |= Index{folded[group * max_heads + row].alpha > 0} << row;
      const int few = _mm_movemask_ps(
          _mm_castsi128_ps(_mm_cmplt_epi32(sum4_32(squares), _mm_set1_epi32(least))));
      too_few |= few & static_cast<int>(alphas);
    }
    return too_few == 0;
  }

  /// Operands of four depths are stored as 0, 2, 1, 3: the pairs that dot16 multiplies at once.
  SQUAT_AVX2 static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                                const float* middle, Index n, float centre, float largest,
                                std::int16_t* operands, Folded* folded) {
    const __m128i pairs = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (; count > 0; --count, x += x_stride, operands += max_length, ++folded) {
      const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
      __m256 top = _mm256_setzero_ps(), offset = top;
      for (Index i = 0; i < n; i += 8) {
        const __m256 xi = _mm256_loadu_ps(x + i);
        const __m256 wi = _mm256_mul_ps(xi, _mm256_loadu_ps(scale + i));
        top = _mm256_max_ps(top, _mm256_and_ps(wi, magnitude));
        offset = _mm256_fmadd_ps(xi, _mm256_loadu_ps(middle + i), offset);
      }
      const float highest = horizontal_max(top);
      const __m256 inverse = _mm256_set1_ps(largest / std::max(highest, 1e-30f));
      __m256i sum = _mm256_setzero_si256();
      for (Index i = 0; i < n; i += 8) {
        const __m256i rounded =
            round(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(scale + i)), inverse);
        sum = _mm256_add_epi32(sum, rounded);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(operands + i),
                         _mm_shuffle_epi8(narrow16(rounded), pairs));
      }
      const float alpha = highest / largest;
      *folded = {alpha,
                 horizontal_sum(offset) - centre * alpha * horizontal_sum(_mm256_cvtepi32_ps(sum))};
    }
  }

  SQUAT_AVX2 static float exponentiate(float* scores, Index n, float& highest) {
    __m256 top = _mm256_loadu_ps(scores);
    for (Index i = 8; i < n; i += 8) top = _mm256_max_ps(top, _mm256_loadu_ps(scores + i));
    highest = std::max(highest, horizontal_max(top));
    const __m256 shift = _mm256_set1_ps(highest);
    __m256 sum = _mm256_setzero_ps();
    for (Index i = 0; i < n; i += 8) {
      const __m256 p = exp(_mm256_sub_ps(_mm256_loadu_ps(scores + i), shift));
      _mm256_storeu_ps(scores + i, p);
      sum = _mm256_add_ps(sum, p);
    }
    return horizontal_sum(sum);
  }

  SQUAT_AVX2 static void dot_rows(const float* rows, Index count, Index n, const float* query,
                                  float* scores) {
    for (Index r = 0; r < count; ++r) {
      __m256 sum = _mm256_setzero_ps();
      for (Index i = 0; i < n; i += 8)
        sum = _mm256_fmadd_ps(_mm256_loadu_ps(rows + r * n + i), _mm256_loadu_ps(query + i), sum);
      scores[r] = horizontal_sum(sum);
    }
  }

  SQUAT_AVX2 static void add_rows(const float* rows, Index count, Index n, const float* weights,
                                  float* out) {
    Index i = 0;
    for (; i + 32 <= n; i += 32) {
      __m256 sum[4];
      SQUAT_UNROLL
      for (int k = 0; k < 4; ++k) sum[k] = _mm256_loadu_ps(out + i + 8 * k);
      for (Index r = 0; r < count; ++r) {
        const __m256 weight = _mm256_broadcast_ss(weights + r);
        SQUAT_UNROLL
        for (int k = 0; k < 4; ++k)
          sum[k] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(rows + r * n + i + 8 * k), sum[k]);
      }
      SQUAT_UNROLL
      for (int k = 0; k < 4; ++k) _mm256_storeu_ps(out + i + 8 * k, sum[k]);
    }
    for (; i < n; i += 8) {
      __m256 sum = _mm256_loadu_ps(out + i);
      for (Index r = 0; r < count; ++r)
        sum = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + r), _mm256_loadu_ps(rows + r * n + i),
                              sum);
      _mm256_storeu_ps(out + i, sum);
    }
  }

  static constexpr VectorKernels vector_kernels() {
    return {"avx2",   widen,  widen8,       fix,      try_fold8, fold8,
            is_fine8, fold16, exponentiate, dot_rows, add_rows};
  }

 private:
  /// relative = x / max(x) * to, for x >= 0 and n a multiple of 32; returns max(x).
  SQUAT_AVX2_INLINE static float relate(const float* x, Index n, float to, float* relative) {
    __m256 top = _mm256_setzero_ps();
    for (Index i = 0; i < n; i += 32) {
      SQUAT_UNROLL
      for (int k = 0; k < 4; ++k) top = _mm256_max_ps(top, _mm256_loadu_ps(x + i + 8 * k));
    }
    const float highest = horizontal_max(top);
    const __m256 factor = _mm256_set1_ps(inverse_of(highest, to));
    for (Index i = 0; i < n; i += 32) {
      SQUAT_UNROLL
      for (int k = 0; k < 4; ++k)
        _mm256_storeu_ps(relative + i + 8 * k,
                         _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * k), factor));
    }
    return highest;
  }

  /// to / highest without a branch; all that it multiplies is zero where highest is.
  SQUAT_AVX2_INLINE static float inverse_of(float highest, float to) {
    return to / std::max(highest, 1e-30f);
  }

  /// x[row] . middle, for four rows.
  SQUAT_AVX2_INLINE static __m128 dot4(const float* const x[4], const float* middle, Index n) {
    __m256 sum[4];
    SQUAT_UNROLL
    for (int row = 0; row < 4; ++row) sum[row] = _mm256_setzero_ps();
    for (Index i = 0; i < n; i += 8) {
      const __m256 m = _mm256_loadu_ps(middle + i);
      SQUAT_UNROLL
      for (int row = 0; row < 4; ++row)
        sum[row] = _mm256_fmadd_ps(m, _mm256_loadu_ps(x[row] + i), sum[row]);
    }
    const __m256 pairs =
        _mm256_hadd_ps(_mm256_hadd_ps(sum[0], sum[1]), _mm256_hadd_ps(sum[2], sum[3]));
    return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
  }

  /// The sum of each of four vectors of four numbers below 2^32.
  SQUAT_AVX2_INLINE static __m128i sum4(const __m256i x[4]) {
    const __m256i first = _mm256_or_si256(x[0], _mm256_slli_epi64(x[1], 32));
    const __m256i second = _mm256_or_si256(x[2], _mm256_slli_epi64(x[3], 32));
    const __m256i pairs = _mm256_add_epi32(_mm256_unpacklo_epi64(first, second),
                                           _mm256_unpackhi_epi64(first, second));
    return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  }

  /// The sum of each of four vectors of eight numbers.
  SQUAT_AVX2_INLINE static __m128i sum4_32(const __m256i x[4]) {
    const __m256i pairs =
        _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  }

  /// Four Folded: alpha, and offset = dot - centre * alpha * sum of operands.
  SQUAT_AVX2_INLINE static void store_folded(__m128 alpha, __m128 dot, __m128 sum, float centre,
                                             Folded* folded) {
    static_assert(sizeof(Folded) == 8 && offsetof(Folded, offset) == 4, "two floats in a row");
    const __m128 offset = _mm_fnmadd_ps(_mm_mul_ps(_mm_set1_ps(centre), alpha), sum, dot);
    float* target = &folded->alpha;
    _mm_storeu_ps(target, _mm_unpacklo_ps(alpha, offset));
    _mm_storeu_ps(target + 4, _mm_unpackhi_ps(alpha, offset));
  }

  /// Sums of eight bytes, each plus 128, in four lanes of 64 bits.
  SQUAT_AVX2_INLINE static __m256i sum_bytes(__m256i bytes) {
    return _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  }
};

}  // namespace squat::simd

#endif
