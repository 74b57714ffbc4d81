// The operations in AVX2, FMA and F16C.
#pragma once

#include <cstring>
#include <squat/simd/portable.hpp>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SQUAT_HAVE_AVX2 1

#include <immintrin.h>

// The compiler may use these instructions in the functions so marked, whatever the rest of the
// program is compiled for; simd/dispatch.hpp calls them only where the machine has them.
#define SQUAT_AVX2 __attribute__((target("avx2,fma,f16c")))
#define SQUAT_AVX2_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace squat::simd {

struct Avx2 {
  SQUAT_AVX2 static void widen(const std::uint16_t* half, Index n, float centre, float* scale,
                               float* middle) {
    const __m256 c = _mm256_set1_ps(centre);
    for (Index i = 0; i < n; i += 8) {
      const __m256 s = _mm256_cvtph_ps(load128(half + i));
      _mm256_storeu_ps(scale + i, s);
      _mm256_storeu_ps(middle + i, _mm256_fmadd_ps(c, s, _mm256_cvtph_ps(load128(half + n + i))));
    }
  }

  SQUAT_AVX2 static void fold8(const float* x, Index x_stride, Index count, const float* scale,
                               const float* middle, Index n, float centre, std::int8_t* operands,
                               Index operand_stride, Folded* folded) {
    for (; count > 0; --count, x += x_stride, operands += operand_stride, ++folded) {
      if (n == 32)
        fold32(x, scale, middle, centre, operands, *folded);
      else
        fold8_row<false>(x, scale, middle, n, centre, operands, *folded);
    }
  }

  SQUAT_AVX2 static bool try_fold8(const float* x, Index x_stride, Index count, const float* scale,
                                   const float* middle, Index n, float centre, float crest,
                                   float largest_alpha, std::int8_t* operands, Index operand_stride,
                                   Folded* folded) {
    for (; count > 0; --count, x += x_stride, operands += operand_stride, ++folded)
      if (fold8_row<true>(x, scale, middle, n, centre, operands, *folded) > crest * crest ||
          folded->alpha > largest_alpha)
        return false;
    return true;
  }

  /// Operands of four depths are stored as 0, 2, 1, 3: the pairs that dot16 multiplies at once.
  SQUAT_AVX2 static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                                const float* middle, Index n, float centre, float largest,
                                std::int16_t* operands, Index operand_stride, Folded* folded) {
    const __m128i pairs = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (; count > 0; --count, x += x_stride, operands += operand_stride, ++folded) {
      float w[max_length];
      const Weighed row = weigh<false>(x, scale, middle, n, w);
      const __m256 inverse = _mm256_set1_ps(row.highest > 0 ? largest / row.highest : 0.0f);
      __m256i sum = _mm256_setzero_si256();
      for (Index i = 0; i < n; i += 8) {
        const __m256i rounded = round(_mm256_loadu_ps(w + i), inverse);
        sum = _mm256_add_epi32(sum, rounded);
        const __m128i words =
            _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(operands + i), _mm_shuffle_epi8(words, pairs));
      }
      folded->alpha = row.highest / largest;
      folded->offset =
          row.offset - centre * folded->alpha * horizontal_sum(_mm256_cvtepi32_ps(sum));
    }
  }

  template <int Bits, class Operand, bool Add>
  SQUAT_AVX2 static void dot(const TileRow<Operand>& first, Index rows, const Folded* folded,
                             float* out, Index out_stride) {
    switch (first.heads) {
      case 1:
        return dot_heads<Bits, Operand, Add, 1>(first, rows, folded, out, out_stride);
      case 2:
        return dot_heads<Bits, Operand, Add, 2>(first, rows, folded, out, out_stride);
      case 3:
        return dot_heads<Bits, Operand, Add, 3>(first, rows, folded, out, out_stride);
      default:
        return dot_heads<Bits, Operand, Add, 4>(first, rows, folded, out, out_stride);
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
    for (Index i = 0; i < n; i += 8) {
      __m256 sum = _mm256_loadu_ps(out + i);
      for (Index r = 0; r < count; ++r)
        sum = _mm256_fmadd_ps(_mm256_set1_ps(weights[r]), _mm256_loadu_ps(rows + r * n + i), sum);
      _mm256_storeu_ps(out + i, sum);
    }
  }

  static constexpr VectorKernels vector_kernels() {
    return {"avx2", widen, fold8, try_fold8, fold16, exponentiate, dot_rows, add_rows};
  }

  template <int Bits>
  static constexpr DotKernels<Bits> dot_kernels() {
    if constexpr (Bits <= 4)
      return {dot<Bits, std::int8_t, false>, dot<Bits, std::int16_t, false>,
              dot<Bits, std::int8_t, true>, dot<Bits, std::int16_t, true>};
    else
      return {nullptr, dot<Bits, std::int16_t, false>, nullptr, dot<Bits, std::int16_t, true>};
  }

 private:
  SQUAT_AVX2_INLINE static __m128i load128(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  SQUAT_AVX2_INLINE static __m256i load256(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  SQUAT_AVX2_INLINE static void store256(void* p, __m256i x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x);
  }
  SQUAT_AVX2_INLINE static float horizontal_max(__m256 x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }
  SQUAT_AVX2_INLINE static float horizontal_sum(__m256 x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }

  /// e^x for x <= 0, 0 below the smallest normal result. Relative error under 3e-7:
  /// x = k ln 2 + r, |r| <= ln 2 / 2; a polynomial (minimax, degree 5) gives e^r.
  SQUAT_AVX2_INLINE static __m256 exp(__m256 x) {
    const __m256 lowest = _mm256_set1_ps(-87.0f);
    const __m256 kept = _mm256_cmp_ps(x, lowest, _CMP_GE_OQ);
    x = _mm256_max_ps(x, lowest);
    const __m256 k = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(k, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(8.3334519e-3f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1667942e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666657e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.9999994e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(k), 23);
    return _mm256_and_ps(kept,
                         _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent)));
  }

  struct Weighed {
    float highest;  // max |w|
    float squares;  // sum of w^2
    float offset;   // sum of x * middle
  };

  /// w = x * scale, and what the fold needs to know of it.
  template <bool Squares>
  SQUAT_AVX2_INLINE static Weighed weigh(const float* x, const float* scale, const float* middle,
                                         Index n, float* w) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 highest = _mm256_setzero_ps(), squares = highest, offset = highest;
    for (Index i = 0; i < n; i += 8) {
      const __m256 xi = _mm256_loadu_ps(x + i);
      const __m256 wi = _mm256_mul_ps(xi, _mm256_loadu_ps(scale + i));
      _mm256_storeu_ps(w + i, wi);
      highest = _mm256_max_ps(highest, _mm256_and_ps(wi, magnitude));
      if constexpr (Squares) squares = _mm256_fmadd_ps(wi, wi, squares);
      offset = _mm256_fmadd_ps(xi, _mm256_loadu_ps(middle + i), offset);
    }
    return {horizontal_max(highest), Squares ? horizontal_sum(squares) : 0.0f,
            horizontal_sum(offset)};
  }

  SQUAT_AVX2_INLINE static __m256i round(__m256 w, __m256 inverse) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(w, inverse));
  }

  /// 32 operands from four vectors of rounded numbers.
  SQUAT_AVX2_INLINE static __m256i narrow(__m256i a, __m256i b, __m256i c, __m256i d) {
    // Packing works within 128-bit halves; this puts the eight groups of four back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(
        _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)), order);
  }

  SQUAT_AVX2_INLINE static std::int32_t horizontal_sum64(__m256i x) {
    const __m128i y = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return static_cast<std::int32_t>(_mm_cvtsi128_si64(y) + _mm_extract_epi64(y, 1));
  }

  /// fold8 for 32 numbers, in registers.
  SQUAT_AVX2_INLINE static void fold32(const float* x, const float* scale, const float* middle,
                                       float centre, std::int8_t* operands, Folded& folded) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 w[4];
    __m256 highest = _mm256_setzero_ps(), offset = highest;
    SQUAT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m256 xi = _mm256_loadu_ps(x + 8 * i);
      w[i] = _mm256_mul_ps(xi, _mm256_loadu_ps(scale + 8 * i));
      highest = _mm256_max_ps(highest, _mm256_and_ps(w[i], magnitude));
      offset = _mm256_fmadd_ps(xi, _mm256_loadu_ps(middle + 8 * i), offset);
    }
    const float top = horizontal_max(highest);
    const __m256 inverse = _mm256_set1_ps(top > 0 ? 127.0f / top : 0.0f);
    const __m256i bytes = narrow(round(w[0], inverse), round(w[1], inverse), round(w[2], inverse),
                                 round(w[3], inverse));
    store256(operands, bytes);
    folded.alpha = top / 127.0f;
    folded.offset =
        horizontal_sum(offset) -
        centre * folded.alpha * static_cast<float>(horizontal_sum64(sum_bytes(bytes)) - 32 * 128);
  }

  /// Sums of eight bytes, each plus 128, in four lanes of 64 bits.
  SQUAT_AVX2_INLINE static __m256i sum_bytes(__m256i bytes) {
    return _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  }

  /// Returns the square of max |w| / rms(w).
  template <bool Crest>
  SQUAT_AVX2_INLINE static float fold8_row(const float* x, const float* scale, const float* middle,
                                           Index n, float centre, std::int8_t* operands,
                                           Folded& folded) {
    float w[max_length];
    const Weighed row = weigh<Crest>(x, scale, middle, n, w);
    const __m256 inverse = _mm256_set1_ps(row.highest > 0 ? 127.0f / row.highest : 0.0f);
    __m256i sums = _mm256_setzero_si256();
    Index i = 0;
    for (; i + 32 <= n; i += 32) {
      const __m256i bytes = narrow(
          round(_mm256_loadu_ps(w + i), inverse), round(_mm256_loadu_ps(w + i + 8), inverse),
          round(_mm256_loadu_ps(w + i + 16), inverse), round(_mm256_loadu_ps(w + i + 24), inverse));
      store256(operands + i, bytes);
      sums = _mm256_add_epi64(sums, sum_bytes(bytes));
    }
    std::int32_t sum = horizontal_sum64(sums) - static_cast<std::int32_t>(128 * i);
    for (; i < n; i += 8) {
      const __m256i rounded = round(_mm256_loadu_ps(w + i), inverse);
      const __m128i words =
          _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(operands + i), _mm_packs_epi16(words, words));
      sum += static_cast<std::int32_t>(horizontal_sum(_mm256_cvtepi32_ps(rounded)));
    }
    folded.alpha = row.highest / 127.0f;
    folded.offset = row.offset - centre * folded.alpha * static_cast<float>(sum);
    return row.squares > 0 ? row.highest * row.highest * static_cast<float>(n) / row.squares : 0.0f;
  }

  /// The four quarters of a tile, a byte a code (see CodeTile).
  template <int Bits>
  SQUAT_AVX2_INLINE static void unpack(const std::uint8_t* tile, __m256i quarters[4]) {
    if constexpr (Bits == 8) {
      SQUAT_UNROLL
      for (int s = 0; s < 4; ++s) quarters[s] = load256(tile + 32 * s);
    } else if constexpr (Bits == 4) {
      const __m256i nibble = _mm256_set1_epi8(15);
      SQUAT_UNROLL
      for (int s = 0; s < 2; ++s) {
        const __m256i plane = load256(tile + 32 * s);
        quarters[s] = _mm256_and_si256(plane, nibble);
        quarters[s + 2] = _mm256_and_si256(_mm256_srli_epi16(plane, 4), nibble);
      }
    } else {
      const __m256i three = _mm256_set1_epi8(3);
      const __m256i low = load256(tile);
      quarters[0] = _mm256_and_si256(low, three);
      quarters[1] = _mm256_and_si256(_mm256_srli_epi16(low, 2), three);
      quarters[2] = _mm256_and_si256(_mm256_srli_epi16(low, 4), three);
      quarters[3] = _mm256_and_si256(_mm256_srli_epi16(low, 6), three);
      if constexpr (Bits == 3) {
        // The high bits of codes 16 to 31 are one above those of codes 0 to 15.
        const __m256i high = _mm256_srlv_epi32(_mm256_broadcastsi128_si256(load128(tile + 32)),
                                               _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
        const __m256i four = _mm256_set1_epi8(4);
        quarters[0] =
            _mm256_or_si256(quarters[0], _mm256_and_si256(_mm256_slli_epi16(high, 2), four));
        quarters[1] = _mm256_or_si256(quarters[1], _mm256_and_si256(high, four));
        quarters[2] =
            _mm256_or_si256(quarters[2], _mm256_and_si256(_mm256_srli_epi16(high, 2), four));
        quarters[3] =
            _mm256_or_si256(quarters[3], _mm256_and_si256(_mm256_srli_epi16(high, 4), four));
      }
    }
  }

  /// Four operands of one byte, or two of two bytes, in every 32-bit lane.
  SQUAT_AVX2_INLINE static __m256i broadcast(const void* operands) {
    std::int32_t bits;
    std::memcpy(&bits, operands, 4);
    return _mm256_set1_epi32(bits);
  }

  template <int Bits, class Operand, bool Add, int Heads>
  SQUAT_AVX2 static void dot_heads(const TileRow<Operand>& first, Index rows, const Folded* folded,
                                   float* out, Index out_stride) {
    constexpr Index tile_bytes = Index{sizeof(CodeTile<Bits>)};
    const std::uint8_t* tile = first.tiles;
    for (Index row = 0; row < rows; ++row, out += 16) {
      __m256i sums[Heads][2];
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) sums[h][0] = sums[h][1] = _mm256_setzero_si256();
      if constexpr (sizeof(Operand) == 1) {
        // A tile adds at most 4 (2^Bits - 1) 127 to a 16-bit sum.
        static_assert(Bits <= 4, "8-bit operands are for codes of at most 4 bits");
        constexpr Index run = 32767 / (4 * 127 * ((1 << Bits) - 1));
        for (Index begin = 0; begin < first.count; begin += run) {
          const Index count = std::min(run, first.count - begin);
          sum_tiles8<Bits, Heads>(tile, count, first.operands + 8 * begin, first.operand_stride,
                                  sums);
          tile += count * tile_bytes;
        }
      } else {
        sum_tiles16<Bits, Heads>(tile, first.count, first.operands, first.operand_stride, sums);
        tile += first.count * tile_bytes;
      }
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        const __m256 alpha = _mm256_set1_ps(folded[h].alpha);
        SQUAT_UNROLL
        for (int half = 0; half < 2; ++half) {
          float* target = out + h * out_stride + 8 * half;
          const __m256 base = Add ? _mm256_loadu_ps(target) : _mm256_set1_ps(folded[h].offset);
          _mm256_storeu_ps(target, _mm256_fmadd_ps(alpha, _mm256_cvtepi32_ps(sums[h][half]), base));
        }
      }
    }
  }

  template <int Bits, int Heads>
  SQUAT_AVX2_INLINE static void sum_tiles8(const std::uint8_t* tile, Index count,
                                           const std::int8_t* operands, Index stride,
                                           __m256i sums[Heads][2]) {
    __m256i words[Heads][2];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) words[h][0] = words[h][1] = _mm256_setzero_si256();
    for (Index t = 0; t < count; ++t, tile += sizeof(CodeTile<Bits>), operands += 8) {
      __m256i quarters[4];
      unpack<Bits>(tile, quarters);
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        const __m256i first = broadcast(operands + h * stride);
        const __m256i second = broadcast(operands + h * stride + 4);
        SQUAT_UNROLL
        for (int half = 0; half < 2; ++half) {
          words[h][half] =
              _mm256_add_epi16(words[h][half], _mm256_maddubs_epi16(quarters[half], first));
          words[h][half] =
              _mm256_add_epi16(words[h][half], _mm256_maddubs_epi16(quarters[2 + half], second));
        }
      }
    }
    const __m256i one = _mm256_set1_epi16(1);
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) SQUAT_UNROLL
    for (int half = 0; half < 2; ++half)
      sums[h][half] = _mm256_add_epi32(sums[h][half], _mm256_madd_epi16(words[h][half], one));
  }

  template <int Bits, int Heads>
  SQUAT_AVX2_INLINE static void sum_tiles16(const std::uint8_t* tile, Index count,
                                            const std::int16_t* operands, Index stride,
                                            __m256i sums[Heads][2]) {
    const __m256i even = _mm256_set1_epi16(0xff);
    for (Index t = 0; t < count; ++t, tile += sizeof(CodeTile<Bits>), operands += 8) {
      __m256i quarters[4];
      unpack<Bits>(tile, quarters);
      SQUAT_UNROLL
      for (int s = 0; s < 4; ++s) {
        const __m256i depths02 = _mm256_and_si256(quarters[s], even);
        const __m256i depths13 = _mm256_srli_epi16(quarters[s], 8);
        SQUAT_UNROLL
        for (int h = 0; h < Heads; ++h) {
          const std::int16_t* operand = operands + h * stride + 4 * (s / 2);
          __m256i& sum = sums[h][s % 2];
          sum = _mm256_add_epi32(sum, _mm256_madd_epi16(depths02, broadcast(operand)));
          sum = _mm256_add_epi32(sum, _mm256_madd_epi16(depths13, broadcast(operand + 2)));
        }
      }
    }
  }
};

}  // namespace squat::simd

#endif
