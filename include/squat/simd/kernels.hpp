// The operations that decode attention over packed codes is made of.
#pragma once

#include <squat/code_tile.hpp>

// Before a loop of a few constant steps over registers: without it g++ at -O2 keeps them in memory.
#if defined(__GNUC__) && !defined(__clang__)
#define SQUAT_UNROLL _Pragma("GCC unroll 16")
#else
#define SQUAT_UNROLL
#endif

namespace squat::simd {

/// Most query heads that one kernel call serves: what fits registers beside the unpacked codes.
inline constexpr Index max_heads = 4;
/// Room that a row of operands or outputs needs: the largest head_dim.
inline constexpr Index max_length = 512;

/// A product sum_i x_i (scale_i code_i + zero_i) made ready for integer arithmetic:
/// alpha * sum_i operand_i code_i + offset, operand_i = round(x_i scale_i / alpha).
struct Folded {
  float alpha;
  float offset;
};

/// Rows of tiles, `count` tiles a row, against `heads` rows of operands, one operand a depth.
/// Operands are as fold8 or fold16 of the same instruction set wrote them.
template <class Operand>
struct TileRow {
  const std::uint8_t* tiles;
  Index count;
  Index heads;  ///< 1 to max_heads
  const Operand* operands;
  Index operand_stride;
};

/// The operations that no width of codes enters. All lengths are multiples of 8, arrays need no
/// alignment, and each operation is defined by what the portable version computes; others may
/// differ in the rounding of floating-point operations alone.
struct VectorKernels {
  /// Name of the instruction set.
  const char* name;

  /// Reads n scales and then n zeros in half precision; middle[i] = zero_i + centre * scale_i is
  /// what a code of `centre` stands for.
  void (*widen)(const std::uint16_t* half, Index n, float centre, float* scale, float* middle);

  /// Folds `count` rows of x [count, n] (x_stride apart) with 8-bit operands in [-127, 127] (they
  /// are operand_stride apart). Rounding them is right for a code of `centre`, so that its error
  /// has no bias: offset = sum_i x_i middle_i - centre * alpha * sum_i operand_i.
  void (*fold8)(const float* x, Index x_stride, Index count, const float* scale,
                const float* middle, Index n, float centre, std::int8_t* operands,
                Index operand_stride, Folded* folded);
  /// As fold8; returns whether in every row max |x_i scale_i| is at most `crest` times their root
  /// mean square, and alpha at most `largest_alpha`: whether rounding is fine enough. If not, what
  /// it wrote has no meaning.
  bool (*try_fold8)(const float* x, Index x_stride, Index count, const float* scale,
                    const float* middle, Index n, float centre, float crest, float largest_alpha,
                    std::int8_t* operands, Index operand_stride, Folded* folded);
  /// As fold8 with 16-bit operands in [-largest, largest].
  void (*fold16)(const float* x, Index x_stride, Index count, const float* scale,
                 const float* middle, Index n, float centre, float largest, std::int16_t* operands,
                 Index operand_stride, Folded* folded);

  /// One step of an online softmax: raises `highest` to the maximum of scores[0..n), replaces each
  /// score by exp(score - highest) and returns their sum. A score of minus infinity becomes 0.
  float (*exponentiate)(float* scores, Index n, float& highest);

  /// scores[r] = rows[r] . query, for `count` rows of n floats.
  void (*dot_rows)(const float* rows, Index count, Index n, const float* query, float* scores);
  /// out += sum_r weights[r] rows[r].
  void (*add_rows)(const float* rows, Index count, Index n, const float* weights, float* out);
};

/// Products of operands with packed codes of one width:
/// out[head * out_stride + lane] (+)= alpha[head] * (sum over depths of operand * code) for the 16
/// lanes of each of `rows` consecutive rows of tiles; row r writes lanes 16 r to 16 r + 15. dot
/// sets out to offset[head] plus that, accumulate adds to out. The 8-bit forms exist for codes of
/// at most 4 bits.
template <int Bits>
struct DotKernels {
  template <class Operand>
  using Dot = void (*)(const TileRow<Operand>& first, Index rows, const Folded* folded, float* out,
                       Index out_stride);

  Dot<std::int8_t> dot8;
  Dot<std::int16_t> dot16;
  Dot<std::int8_t> accumulate8;
  Dot<std::int16_t> accumulate16;
};

/// Largest 16-bit operand for which n products with codes of `bits` bits sum up within 32 bits.
inline float largest_operand16(Index n, int bits) {
  const float room = 2147483000.0f / (static_cast<float>(n) * static_cast<float>((1 << bits) - 1));
  return room < 32767.0f ? static_cast<float>(static_cast<int>(room)) : 32767.0f;
}

}  // namespace squat::simd
