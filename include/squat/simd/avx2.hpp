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

  /// Products, their maximum and the operands are found 16 at a time in fixed point; only what
  /// `offset` needs of x is floating point.
  SQUAT_AVX2 static bool try_fold8(const float* x, Index x_stride, const std::int16_t* fixed,
                                   const float* units, Index count, const float* scale,
                                   const float* middle, Index n, float centre, float crest,
                                   float largest_alpha, std::int8_t* operands, Folded* folded) {
    alignas(32) std::int16_t fixed_scale[max_length];
    alignas(32) std::int16_t products[max_length];
    const float scale_unit = fix(scale, n, fixed_scale);
    // Absent rows stand for the first one.
    const float* const rows[4] = {x, x + (count > 1 ? x_stride : 0),
                                  x + (count > 2 ? 2 * x_stride : 0),
                                  x + (count > 3 ? 3 * x_stride : 0)};
    float offsets[4];
    dot4(rows, middle, n, offsets);
    const __m256i one = _mm256_set1_epi16(1);
    for (Index row = 0; row < count; ++row, fixed += max_length, operands += max_length) {
      __m256i top = _mm256_setzero_si256();
      for (Index i = 0; i < n; i += 32) {
        const __m256i a = _mm256_mulhrs_epi16(load256(fixed + i), load256(fixed_scale + i));
        const __m256i b =
            _mm256_mulhrs_epi16(load256(fixed + i + 16), load256(fixed_scale + i + 16));
        store256(products + i, a);
        store256(products + i + 16, b);
        top = _mm256_max_epi16(top, _mm256_max_epi16(_mm256_abs_epi16(a), _mm256_abs_epi16(b)));
      }
      // Below this the products are too coarse to round again; zeros only are fine.
      const int highest = horizontal_max16(top);
      if (highest < 1024 && units[row] * scale_unit > 0) return false;
      const int factor = (127 << 15) / std::max(highest, 1);
      const __m256i factors = _mm256_set1_epi16(static_cast<std::int16_t>(std::min(factor, 32767)));
      __m256i sums = _mm256_setzero_si256(), squares = sums;
      for (Index i = 0; i < n; i += 32) {
        // Packing works within 128-bit halves: quarters 0, 2, 1, 3 go back in order.
        const __m256i bytes = _mm256_permute4x64_epi64(
            _mm256_packs_epi16(_mm256_mulhrs_epi16(load256(products + i), factors),
                               _mm256_mulhrs_epi16(load256(products + i + 16), factors)),
            0xd8);
        store256(operands + i, bytes);
        sums = _mm256_add_epi64(sums, sum_bytes(bytes));
        const __m256i sizes = _mm256_abs_epi8(bytes);
        squares =
            _mm256_add_epi32(squares, _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, sizes), one));
      }
      const Index padded = (n + 31) / 32 * 32;
      const float sum = static_cast<float>(horizontal_sum64(sums) - 128 * padded);
      // products are in units of 2^15 units; an operand is one of them times factor / 2^15.
      const float alpha =
          units[row] * scale_unit * (32768.0f * 32768.0f) / static_cast<float>(std::max(factor, 1));
      folded[row] = {alpha, offsets[row] - centre * alpha * sum};
      const float energy = horizontal_sum(_mm256_cvtepi32_ps(squares));
      if (127.0f * 127.0f * static_cast<float>(n) > crest * crest * energy && energy > 0)
        return false;
      if (alpha > largest_alpha) return false;
    }
    return true;
  }

  SQUAT_AVX2 static void fold8(const float* x, Index x_stride, Index count, const float* scale,
                               const float* middle, Index groups, Index n, float centre,
                               std::int8_t* operands, Folded* folded) {
    // Scales relative to the largest of their group, probabilities to the largest of their row.
    alignas(32) float relative_scale[max_length + max_block];
    alignas(32) float relative_x[max_block];
    float highest_scale[max_length / 32];
    for (Index group = 0; group < groups; ++group)
      highest_scale[group] = relate(scale + group * n, n, 1.0f, relative_scale + group * n);
    for (Index row = 0; row < count; ++row, x += x_stride) {
      const float highest = relate(x, n, 127.0f, relative_x);
      const float* s = relative_scale;
      const float* m = middle;
      for (Index group = 0; group < groups; ++group) {
        __m256 offset = _mm256_setzero_ps();
        __m256i sums = _mm256_setzero_si256();
        std::int8_t* target = operands + (group * max_heads + row) * max_block;
        for (Index i = 0; i < n; i += 32, s += 32, m += 32) {
          __m256i rounded[4];
          SQUAT_UNROLL
          for (int k = 0; k < 4; ++k) {
            const __m256 xi = _mm256_load_ps(relative_x + i + 8 * k);
            offset = _mm256_fmadd_ps(xi, _mm256_loadu_ps(m + 8 * k), offset);
            rounded[k] = round(xi, _mm256_loadu_ps(s + 8 * k));
          }
          const __m256i bytes = narrow(rounded[0], rounded[1], rounded[2], rounded[3]);
          store256(target + i, bytes);
          // Nothing is negative here.
          sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
        }
        const float unit = highest * (1 / 127.0f), alpha = unit * highest_scale[group];
        folded[group * max_heads + row] = {
            alpha, unit * horizontal_sum(offset) -
                       centre * alpha * static_cast<float>(horizontal_sum64(sums))};
      }
    }
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

  template <int Bits, class Operand, bool Add>
  SQUAT_AVX2 static void dot(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                             Index out_stride) {
    switch (tiles.heads) {
      case 1:
        return dot_heads<Bits, Operand, Add, 1>(tiles, folded, out, out_stride);
      case 2:
        return dot_heads<Bits, Operand, Add, 2>(tiles, folded, out, out_stride);
      case 3:
        return dot_heads<Bits, Operand, Add, 3>(tiles, folded, out, out_stride);
      default:
        return dot_heads<Bits, Operand, Add, 4>(tiles, folded, out, out_stride);
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
    return {"avx2", widen, fix, try_fold8, fold8, fold16, exponentiate, dot_rows, add_rows};
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

  SQUAT_AVX2_INLINE static __m256i round(__m256 x, __m256 factor) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(x, factor));
  }

  /// 8 numbers in 16 bits.
  SQUAT_AVX2_INLINE static __m128i narrow16(__m256i x) {
    return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  }

  /// 32 numbers in 8 bits.
  SQUAT_AVX2_INLINE static __m256i narrow(__m256i a, __m256i b, __m256i c, __m256i d) {
    // Packing works within 128-bit halves; this puts the eight groups of four back in order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(
        _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)), order);
  }

  SQUAT_AVX2_INLINE static std::int64_t horizontal_sum64(__m256i x) {
    const __m128i y = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(y, _mm_unpackhi_epi64(y, y)));
  }

  /// Maximum of numbers in [0, 32767].
  SQUAT_AVX2_INLINE static int horizontal_max16(__m256i x) {
    const __m128i y = _mm_max_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    // The one horizontal minimum there is, of the differences from 32767.
    const __m128i all = _mm_set1_epi16(32767);
    return 32767 - (_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_sub_epi16(all, y))) & 0xffff);
  }

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

  /// sums[row] = x[row] . middle, for four rows.
  SQUAT_AVX2_INLINE static void dot4(const float* const x[4], const float* middle, Index n,
                                     float sums[4]) {
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
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
  }

  /// Sums of eight bytes, each plus 128, in four lanes of 64 bits.
  SQUAT_AVX2_INLINE static __m256i sum_bytes(__m256i bytes) {
    return _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
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
  SQUAT_AVX2 static void dot_heads(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                                   Index out_stride) {
    constexpr Index tile_bytes = Index{sizeof(CodeTile<Bits>)};
    const std::uint8_t* tile = tiles.tiles;
    const Operand* operands = tiles.operands;
    const Index count = tiles.depth_tiles, stride = tiles.operand_stride;
    Index left_in_group = tiles.rows_per_group;
    for (Index row = 0; row < tiles.rows; ++row, out += 16, tile += count * tile_bytes) {
      __m256i sums[Heads][2];
      if constexpr (sizeof(Operand) == 1) {
        // A tile adds at most 4 (2^Bits - 1) 127 to a 16-bit sum.
        static_assert(Bits <= 4, "8-bit operands are for codes of at most 4 bits");
        constexpr Index run = 32767 / (4 * 127 * ((1 << Bits) - 1));
        sum_tiles8<Bits, Heads, false>(tile, std::min(run, count), operands, stride, sums);
        for (Index begin = run; begin < count; begin += run)
          sum_tiles8<Bits, Heads, true>(tile + begin * tile_bytes, std::min(run, count - begin),
                                        operands + 8 * begin, stride, sums);
      } else {
        sum_tiles16<Bits, Heads>(tile, count, operands, stride, sums);
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
      if (--left_in_group == 0) {
        left_in_group = tiles.rows_per_group;
        operands += tiles.group_stride;
        folded += max_heads;
      }
    }
  }

  /// Sets sums, or adds to them, for so few tiles that 16 bits hold their sum.
  template <int Bits, int Heads, bool Add>
  SQUAT_AVX2_INLINE static void sum_tiles8(const std::uint8_t* tile, Index count,
                                           const std::int8_t* operands, Index stride,
                                           __m256i sums[Heads][2]) {
    __m256i words[Heads][2];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) words[h][0] = words[h][1] = _mm256_setzero_si256();
    const std::int8_t* const end = operands + 8 * count;
    for (; operands != end; tile += sizeof(CodeTile<Bits>), operands += 8) {
      SQUAT_UNROLL
      for (int quad = 0; quad < 2; ++quad) {
        // The empty statements keep an order of work for which there are registers: the compiler
        // would unpack all first, add products to each other first, and spill the sums.
        const std::uint8_t* here = tile;
        __asm__ volatile("" : "+r"(here));
        __m256i quarters[4];
        unpack<Bits>(here, quarters);
        SQUAT_UNROLL
        for (int h = 0; h < Heads; ++h) {
          const __m256i operand = broadcast(operands + h * stride + 4 * quad);
          SQUAT_UNROLL
          for (int half = 0; half < 2; ++half) {
            words[h][half] = _mm256_add_epi16(
                words[h][half], _mm256_maddubs_epi16(quarters[2 * quad + half], operand));
            __asm__ volatile("" : "+x"(words[h][half]));
          }
        }
      }
    }
    const __m256i one = _mm256_set1_epi16(1);
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      SQUAT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const __m256i sum = _mm256_madd_epi16(words[h][half], one);
        sums[h][half] = Add ? _mm256_add_epi32(sums[h][half], sum) : sum;
      }
    }
  }

  template <int Bits, int Heads>
  SQUAT_AVX2_INLINE static void sum_tiles16(const std::uint8_t* tile, Index count,
                                            const std::int16_t* operands, Index stride,
                                            __m256i sums[Heads][2]) {
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) sums[h][0] = sums[h][1] = _mm256_setzero_si256();
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
