// The operations that decode attention over packed codes is made of.
#pragma once

#include <squat/detail/records/code_tile.hpp>

// Before a loop of a few constant steps over registers: without it compilers may keep them in
// memory.
#if defined(__clang__)
#define SQUAT_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define SQUAT_UNROLL _Pragma("GCC unroll 16")
#else
#define SQUAT_UNROLL
#endif

namespace squat::detail::simd {

/// Most query heads that one kernel call serves: what fits registers beside the unpacked codes.
inline constexpr Index max_heads = 4;
/// Room that a row of operands needs: kernels fill whole registers, of up to 64 operands.
inline constexpr Index max_length = max_head_dim + 64;
/// Most tokens of a block.
inline constexpr Index max_block = 128;

/// A product sum_i x_i (scale_i code_i + zero_i) made ready for integer arithmetic:
/// alpha * sum_i operand_i code_i + offset, operand_i = round(x_i scale_i / alpha).
struct Folded {
  float alpha;
  float offset;
};

/// `rows` consecutive rows of tiles, `depth_tiles` tiles a row, against the operands of `heads`
/// heads, one operand a depth, as folding with the same instruction set wrote them. Every
/// rows_per_group rows the operands and Folded of the next group apply.
template <class Operand>
struct TileRows {
  const std::uint8_t* tiles;
  Index rows;
  Index depth_tiles;
  Index heads;  ///< 1 to max_heads
  const Operand* operands;
  Index operand_stride;  ///< from head to head
  Index rows_per_group;
  Index group_stride;  ///< of operands, from group to group; Folded are max_heads apart
  bool add;            ///< to what is there
};

/// The operations that no width of codes enters. All lengths are multiples of 8, arrays need no
/// alignment, and each operation is defined by what the portable version computes; others may
/// differ in the rounding of floating-point operations alone.
struct VectorKernels {
  /// Reads n scales and n zeros in half precision; midpoint[i] = zero_i + centre * scale_i is what
  /// a code of `centre` stands for. Without zeros (null) it is 0.
  void (*read_f16_table)(const std::uint16_t* scales, const std::uint16_t* zeros, Index n,
                         float centre, float* scale, float* midpoint);
  /// Reads n scales and n midpoints of 8 bits (AffineTable); midpoint[i] = expected_i +
  /// middle_i * step * scale_i. Null `midpoints` and `expected` stand for zeros.
  void (*read_8_bit_table)(const std::uint8_t* scales, const std::int8_t* midpoints,
                           const float* expected, Index n, float step, float* scale,
                           float* midpoint);

  /// Reads n numbers of 8 or 16 bits: out[i] = codes[i] * scale, one for every 32 of them, of which
  /// the upper half is stored. To the bit the same everywhere.
  void (*widen8)(const std::int8_t* codes, const std::uint16_t* scales, Index n, float* out);
  void (*widen16)(const std::int16_t* codes, const std::uint16_t* scales, Index n, float* out);

  /// Fixed-point form of x[0..n) for try_fold8, into fixed[0..max_length), each number in its
  /// place: try_fold8 may begin anywhere in it. Returns its unit.
  float (*to_fixed_point)(const float* x, Index n, std::int16_t* fixed);

  /// Folds `count` <= max_heads rows of x [count, n] (x_stride apart) with 8-bit operands in [-127,
  /// 127] (rows are max_length apart). Rounding them is right for a code of `centre`, so that its
  /// error has no bias: offset = sum_i x_i middle_i - centre * alpha * sum_i operand_i. `fixed`
  /// (rows max_length apart) and `units` are x as to_fixed_point() gave it. Returns whether
  /// rounding is fine enough in every row: max |x_i scale_i| at most `crest` times their root mean
  /// square, and alpha at most `largest_alpha`. If not, what it wrote has no meaning.
  bool (*try_fold8)(const float* x, Index x_stride, const std::int16_t* fixed, const float* units,
                    Index count, const float* scale, const float* midpoint, Index n, float centre,
                    float crest, float largest_alpha, std::int8_t* operands, Folded* folded);
  /// Folds rows x >= 0 with the scales and midpoints [groups, n] of several groups, n being 32, 64
  /// or 128, with operands in [0, 255], into operands[groups][max_heads][max_block] and
  /// folded[groups][max_heads]. Here alpha is max_i x_i * max_i scale_i / 255, a bound that needs
  /// no pass over the products. Returns whether that is fine enough: in each row of each group the
  /// squares of the n operands sum up to `least` at least, or alpha is 0.
  bool (*try_fold8_positive)(const float* x, Index x_stride, Index count, const float* scale,
                             const float* midpoint, Index groups, Index n, float centre,
                             std::int32_t least, std::uint8_t* operands, Folded* folded);
  /// As try_fold8 with 16-bit operands in [-largest, largest], which are always fine enough.
  void (*fold16)(const float* x, Index x_stride, Index count, const float* scale,
                 const float* midpoint, Index n, float centre, float largest,
                 std::int16_t* operands, Folded* folded);

  /// One step of an online softmax for `rows` rows of n scores, `stride` apart: raises max[row]
  /// to the maximum of its scores, replaces each score by exp(score - max[row]), minus infinity
  /// by 0, and gives sums[row].
  void (*exponentiate)(float* scores, Index stride, Index rows, Index n, float* max, float* sums);

  /// scores[q * stride + r] = rows[r] . queries[q], for `count` rows and `query_count` queries of n
  /// floats.
  void (*dot_rows)(const float* rows, Index count, Index n, const float* queries, Index query_count,
                   float* scores, Index stride);
  /// sums[q] += sum_r weights[q * weight_stride + r] rows[r], for `sum_count` sums of n floats,
  /// `stride` apart.
  void (*add_rows)(const float* rows, Index count, Index n, const float* weights,
                   Index weight_stride, Index sum_count, float* sums, Index stride);
};

/// Products of operands with packed codes of one width:
/// out[head * out_stride + lane] = base + alpha[head] * (sum over depths of operand * code) for the
/// 16 lanes of each of `rows` consecutive rows of tiles; row r writes lanes 16 r to 16 r + 15. The
/// base is what is there if tiles.add, else offset[head]. Operands of 8 bits are for codes of at
/// most 4 bits; beside wider ones these kernels are null.
struct DotKernels {
  template <class Operand>
  using Dot = void (*)(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                       Index out_stride);

  Dot<std::int8_t> dot8;
  Dot<std::uint8_t> dot8_positive;
  Dot<std::int16_t> dot16;

  template <class Operand>
  Dot<Operand> with() const {
    if constexpr (std::is_same_v<Operand, std::int8_t>)
      return dot8;
    else if constexpr (std::is_same_v<Operand, std::uint8_t>)
      return dot8_positive;
    else
      return dot16;
  }
};

/// A product by what `Set` has for each number of heads.
template <class Set, int Bits, class Operand>
void dot(const TileRows<Operand>& tiles, const Folded* folded, float* out, Index out_stride) {
  switch (tiles.heads) {
    case 1:
      return Set::template dot_heads<Bits, Operand, 1>(tiles, folded, out, out_stride);
    case 2:
      return Set::template dot_heads<Bits, Operand, 2>(tiles, folded, out, out_stride);
    case 3:
      return Set::template dot_heads<Bits, Operand, 3>(tiles, folded, out, out_stride);
    default:
      return Set::template dot_heads<Bits, Operand, 4>(tiles, folded, out, out_stride);
  }
}

/// The kernels that `Set` has for codes of `Bits` bits.
template <class Set, int Bits>
constexpr DotKernels dot_kernels_of() {
  if constexpr (Bits <= 4)
    return {dot<Set, Bits, std::int8_t>, dot<Set, Bits, std::uint8_t>,
            dot<Set, Bits, std::int16_t>};
  else
    return {nullptr, nullptr, dot<Set, Bits, std::int16_t>};
}

/// The place of codes of `bits` bits among those of 1, 2, 3, 4 and 8.
inline std::size_t width_index(int bits) {
  return static_cast<std::size_t>(bits == 8 ? 4 : bits - 1);
}

/// Largest 16-bit operand for which n products with codes of `bits` bits sum up within 32 bits.
inline float largest_operand16(Index n, int bits) {
  const float room = 2147483000.0f / (static_cast<float>(n) * static_cast<float>((1 << bits) - 1));
  return room < 32767.0f ? static_cast<float>(static_cast<int>(room)) : 32767.0f;
}

}  // namespace squat::detail::simd
