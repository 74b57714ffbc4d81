// Sums of packed values by probability.
#pragma once

#include <squat/detail/attention/table_reader.hpp>
#include <squat/detail/records/value_record_layout.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail {

/// Adds the values of blocks straight over the codes: value scales are folded into the
/// probabilities once a block and value group. Not rotated back before finish(). The mean that
/// codes leave out is added once for all blocks that have it, times the sum of their probabilities.
class PackedValues {
 public:
  /// For `rows` query rows over blocks of `layout`.
  void start(const ValueRecordLayout& layout, Index rows) {
    groups_ = layout.groups();
    rows_ = rows;
    rotation_ = Rotation::signs;
    std::fill_n(offsets_, rows * groups_, 0.0f);
    mean_ = nullptr;
  }

  /// For the `mean` [head_dim], or null, of a block, whose tokens have `weights` [rows] in total.
  /// Sums in which values are not rotated, `stride` apart, get that of the blocks before if it is
  /// another one.
  void add_mean(const ValueRecordLayout& layout, const float* mean, const float* weights,
                float* sums, Index stride) {
    if (mean != mean_) {
      finish_mean(layout, sums, stride);
      mean_ = mean;
      std::fill_n(mean_weights_, rows_, 0.0f);
    }
    for (Index i = 0; mean != nullptr && i < rows_; ++i) mean_weights_[i] += weights[i];
  }
  /// After the last block.
  void finish_mean(const ValueRecordLayout& layout, float* sums, Index stride) const {
    for (Index i = 0; mean_ != nullptr && i < rows_; ++i)
      for (Index c = 0; c < layout.head_dim(); ++c)
        sums[i * stride + c] += mean_weights_[i] * mean_[c];
  }

  /// Reads the scales of a block, which add() takes.
  void read(const ValueRecordLayout& layout, const std::byte* record) {
    const Index entries = layout.table().entries();
    read_table(layout.table(), record, 0, entries, max_code(layout.bits()), nullptr, table_,
               table_ + entries);
  }

  /// Adds weights [rows][max_block] times the values of the block that was read, in units of
  /// `unit`, to `sums`, rows `stride` apart.
  void add(const ValueRecordLayout& layout, const std::byte* record, float unit,
           const float (*weights)[simd::max_block], Index rows, float* sums, Index stride) {
    const Index tokens = layout.tokens();
    const float* midpoints = table_ + layout.table().entries();
    const Index rows_per_group = round_up(layout.group_end(0), lanes) / lanes;
    const simd::DotKernels& dots = simd::dot_kernels(layout.bits());
    const std::uint8_t* tiles = layout.tile(record, 0, 0);
    for (Index first = 0; first < rows; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows - first);
      float* out = sums + first * stride;
      if (dots.dot8_positive != nullptr && try_fold8(layout, weights[first], count, midpoints)) {
        leave_units(unit, count);
        dots.dot8_positive(
            {tiles, stride / lanes, tokens / depths, count, operands8_, simd::max_block,
             rows_per_group, simd::max_heads * simd::max_block, true},
            folded_, out, stride);
      } else {
        for (Index group = 0; group < groups_; ++group)
          kernels_.fold16(weights[first], simd::max_block, count, table_ + group * tokens,
                          midpoints + group * tokens, tokens, max_code(layout.bits()) / 2,
                          simd::largest_operand16(tokens, layout.bits()),
                          operands16_ + group * simd::max_heads * simd::max_length,
                          folded_ + group * simd::max_heads);
        leave_units(unit, count);
        dots.dot16({tiles, stride / lanes, tokens / depths, count, operands16_, simd::max_length,
                    rows_per_group, simd::max_heads * simd::max_length, true},
                   folded_, out, stride);
      }
      for (Index i = 0; i < count; ++i)
        for (Index group = 0; group < groups_; ++group)
          offsets_[(first + i) * groups_ + group] += folded_[group * simd::max_heads + i].offset;
    }
  }

  /// Weighs what was added to `row` so far by `factor`; the caller does so with the sums.
  void rescale(Index row, float factor) {
    for (Index group = 0; group < groups_; ++group) offsets_[row * groups_ + group] *= factor;
    if (mean_ != nullptr) mean_weights_[row] *= factor;
  }

  /// Before values of `rotation` come: what was added in another one goes from `sums` to `plain`,
  /// rows `stride` apart, rotated back.
  void turn_to(Rotation rotation, const ValueRecordLayout& layout, float* sums, float* plain,
               Index stride) {
    if (rotation == rotation_) return;
    if (layout.is_rotated()) {
      for (Index row = 0; row < rows_; ++row) {
        finish(layout, row, sums + row * stride);
        for (Index c = 0; c < layout.head_dim(); ++c)
          plain[row * stride + c] += sums[row * stride + c];
        std::fill_n(sums + row * stride, stride, 0.0f);
      }
      std::fill_n(offsets_, rows_ * groups_, 0.0f);
    }
    rotation_ = rotation;
  }

  /// Completes sums [head_dim] of `row`, rotated back.
  void finish(const ValueRecordLayout& layout, Index row, float* sums) const {
    for (Index group = 0; group < groups_; ++group)
      Eigen::Map<Eigen::ArrayXf>(sums + layout.group_begin(group),
                                 layout.group_end(group) - layout.group_begin(group)) +=
          offsets_[row * groups_ + group];
    if (layout.is_rotated()) simd::head_rotation<float>(rotation_, layout.head_dim()).undo(sums);
  }

 private:
  static constexpr Index lanes = 16, depths = 8;  // of a tile
  static constexpr Index max_groups = max_head_dim / 32;
  static constexpr Index max_rows = 32;

  /// What was folded with scales in units, in none.
  void leave_units(float unit, Index count) {
    for (Index group = 0; group < groups_; ++group)
      for (Index i = 0; i < count; ++i) {
        simd::Folded& folded = folded_[group * simd::max_heads + i];
        folded = {folded.alpha * unit, folded.offset * unit};
      }
  }

  /// Makes operands of 8 bits, or returns false where they are too coarse: in blocks in which the
  /// most probable token has a small scale beside another one's.
  bool try_fold8(const ValueRecordLayout& layout, const float* weights, Index count,
                 const float* midpoints) {
    const Index tokens = layout.tokens();
    // Operands are off by sqrt(1 / 12), codes from their midpoint by sqrt((4^bits - 1) / 12). So
    // rounding makes at most a seventh of the error that codes of 4 bits make in a group, narrower
    // ones less than that, and a three-hundredth of their ranges.
    const auto least = static_cast<std::int32_t>(1000 * tokens);
    return kernels_.try_fold8_positive(weights, simd::max_block, count, table_, midpoints, groups_,
                                       tokens, max_code(layout.bits()) / 2, least, operands8_,
                                       folded_);
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index groups_ = 0;
  Index rows_ = 0;
  Rotation rotation_ = Rotation::signs;  // of what was added
  const float* mean_ = nullptr;          // of the newest blocks
  float mean_weights_[max_rows];         // of them
  alignas(64) float table_[2 * max_groups * simd::max_block];
  alignas(64) std::uint8_t operands8_[max_groups * simd::max_heads * simd::max_block];
  alignas(64) std::int16_t operands16_[max_groups * simd::max_heads * simd::max_length];
  simd::Folded folded_[max_groups * simd::max_heads];
  float offsets_[max_rows * max_groups];  // per row and value group: what codes do not enter
};

}  // namespace squat::detail
