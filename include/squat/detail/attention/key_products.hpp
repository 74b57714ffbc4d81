// Integer products of query rows with packed keys, and how fine their operands have to be.
#pragma once

#include <squat/detail/attention/table_reader.hpp>
#include <squat/detail/records/key_record_layout.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail {

/// Whether key codes of so many bits may meet operands of 8 bits at all.
inline constexpr bool takes_operands8(int bits) { return bits <= 3; }

// Operands of 8 bits serve keys where their rounding stays a tenth of that of the codes, and moves
// a score by a few hundredths at most.

/// The largest operand of a row, in root mean squares. (At 3 bits rounding then makes 0.08 of the
/// codes' error, at 2 bits 0.07: more fails on states made to fail.)
inline constexpr float largest_crest(int bits) { return bits == 3 ? 4.3f : 8 * 3 / max_code(bits); }

/// The most that a unit of an operand and of a code may move a score.
inline float largest_alpha(int bits, Index head_dim) {
  return 0.1f * 3 / max_code(bits) / std::sqrt(static_cast<float>(head_dim));
}

/// Sets (or adds to) scores[i * max_block + t], i < count <= max_heads, for all tokens t of a block
/// from the codes of the channels of a run, whose `operands` (rows max_length apart) and `folded`
/// are as folding wrote them.
template <class Operand>
void add_products(const KeyRecordLayout& block, const KeyRecordLayout::Run& run,
                  const std::byte* record, const Operand* operands, const simd::Folded* folded,
                  Index count, bool add, float* scores) {
  const Index lane_rows = block.tokens() / CodeTile<2>::lanes;
  for (int plane = 0; plane < run.planes.count; ++plane) {
    const simd::DotKernels& dots = simd::dot_kernels(run.planes.bits[plane]);
    const float unit = static_cast<float>(1 << run.planes.shift[plane]);
    simd::Folded shifted[simd::max_heads];
    for (Index i = 0; i < count; ++i) shifted[i] = {folded[i].alpha * unit, folded[i].offset};
    const simd::TileRows<Operand> tiles{block.tile(record, run, plane, 0, run.first),
                                        lane_rows,
                                        run.count / CodeTile<2>::depths,
                                        count,
                                        operands,
                                        simd::max_length,
                                        lane_rows,
                                        0,
                                        add || plane > 0};
    dots.with<Operand>()(tiles, shifted, scores, simd::max_block);
  }
}

}  // namespace squat::detail
