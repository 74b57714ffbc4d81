// Scores of keys whose scales belong to a channel.
#pragma once

#include <squat/detail/attention/key_products.hpp>
#include <squat/detail/attention/table_reader.hpp>

namespace squat::detail {

/// Products of query rows with packed keys: the scales of a block are folded into the rows, so that
/// all work per code is an integer dot product. For KeyScales::per_channel.
class ChannelKeyScores {
 public:
  /// Query rows that prepare() can take.
  static constexpr Index max_rows = 32;

  /// For blocks with the channels in the order of `block`: `queries` [rows, head_dim], times the
  /// softmax scale.
  void prepare(const KeyRecordLayout& block, const float* queries, Index rows) {
    head_dim_ = block.head_dim();
    rows_ = rows;
    const float unit = block.unit<float>();
    for (Index i = 0; i < rows; ++i) {
      float* target = ordered_ + i * head_dim_;
      for (Index p = 0; p < head_dim_; ++p)
        target[p] = queries[i * head_dim_ + block.channel_at(p)] * unit;
      units_[i] = kernels_.to_fixed_point(target, head_dim_, fixed_ + i * simd::max_length);
    }
  }

  /// scores[i * max_block + t] of every row and token of a block, padding and missing ones
  /// included.
  void score(const KeyRecordLayout& block, const std::byte* record, float* scores) {
    for (const KeyRecordLayout::Run& run : block.runs())
      read_table(block.table(), record, run.first, run.count, max_code(run.bits), block.expected(),
                 scales_ + run.first, midpoints_ + run.first);
    const Index runs = static_cast<Index>(block.runs().size());
    for (Index first = 0; first < rows_; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows_ - first);
      for (Index r = 0; r < runs; ++r) {
        is_fine8_[r] = fold_run(block.runs()[static_cast<std::size_t>(r)], first, count,
                                folded_ + r * simd::max_heads);
        for (Index i = 0; r > 0 && i < count; ++i)
          folded_[i].offset += folded_[r * simd::max_heads + i].offset;
      }
      for (Index r = 0; r < runs; ++r) {
        const KeyRecordLayout::Run& run = block.runs()[static_cast<std::size_t>(r)];
        const simd::Folded* folded = folded_ + r * simd::max_heads;
        float* target = scores + first * simd::max_block;
        if (is_fine8_[r])
          add_products(block, run, record, operands8_ + run.first, folded, count, r > 0, target);
        else
          add_products(block, run, record, operands16_ + run.first, folded, count, r > 0, target);
      }
    }
  }

 private:
  static constexpr Index spare = 32;  // kernels fill whole registers

  /// Makes operands of 8 or 16 bits of the channels of a run; returns whether they have 8.
  bool fold_run(const KeyRecordLayout::Run& run, Index first, Index count, simd::Folded* folded) {
    const float* q = ordered_ + first * head_dim_ + run.first;
    const float *scales = scales_ + run.first, *midpoints = midpoints_ + run.first;
    const float centre = max_code(run.bits) / 2;
    if (takes_operands8(run.bits) &&
        kernels_.try_fold8(q, head_dim_, fixed_ + first * simd::max_length + run.first,
                           units_ + first, count, scales, midpoints, run.count, centre,
                           largest_crest(run.bits), largest_alpha(run.bits, head_dim_),
                           operands8_ + run.first, folded))
      return true;
    kernels_.fold16(q, head_dim_, count, scales, midpoints, run.count, centre,
                    simd::largest_operand16(run.count, run.bits), operands16_ + run.first, folded);
    return false;
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index head_dim_ = 0;
  Index rows_ = 0;
  bool is_fine8_[max_head_dim / 8];  // of each run
  alignas(64) float scales_[max_head_dim];
  alignas(64) float midpoints_[max_head_dim];
  alignas(64) float ordered_[max_rows * max_head_dim];
  // As try_fold8 wants queries.
  alignas(64) std::int16_t fixed_[max_rows * simd::max_length + spare];
  float units_[max_rows];
  alignas(64) std::int8_t operands8_[simd::max_heads * simd::max_length + spare];
  alignas(64) std::int16_t operands16_[simd::max_heads * simd::max_length + spare];
  simd::Folded folded_[max_head_dim / 8 * simd::max_heads];
};

}  // namespace squat::detail
