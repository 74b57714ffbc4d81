// Scores of keys whose scales belong to a token.
#pragma once

#include <squat/detail/attention/key_products.hpp>
#include <squat/detail/attention/table_reader.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail {

/// Products of query rows with packed keys, for KeyScales::per_token: of group g of token t
///
///     scale[t, g] * (code[t] - max_code / 2) . q_g + midpoint[t, g] * sum(q_g)
///
/// where the query enters the integer product as it is. So it is rounded once for all blocks: to 8
/// bits, or to 16 bits and what that leaves to 16 more, which is taken where a block's scales are
/// so large that it matters.
class TokenKeyScores {
 public:
  /// Query rows that prepare() can take.
  static constexpr Index max_rows = 32;

  /// For all blocks of the layout of `block`: `queries` [rows, head_dim], times the softmax scale.
  void prepare(const KeyRecordLayout& block, const float* queries, Index rows) {
    const Index head_dim = block.head_dim(), groups = block.groups().groups();
    rows_ = rows;
    const float unit = block.unit<float>();
    for (Index i = 0; i < rows * head_dim; ++i) queries_[i] = queries[i] * unit;
    for (Index i = 0; i < rows; ++i) {
      float* query = queries_ + i * head_dim;
      if (block.is_rotated()) simd::head_rotation<float>(block.rotation(), head_dim).apply(query);
      for (Index group = 0; group < groups; ++group) {
        sums_[i][group] = 0;
        for (Index c = block.groups().group_begin(group); c < block.groups().group_end(group); ++c)
          sums_[i][group] += query[c];
      }
    }
    for (Index first = 0; first < rows; first += simd::max_heads)
      for (Index group = 0; group < groups; ++group) fold(block, first, group);
  }

  /// scores[i * max_block + t] of every row and token of a block, padding and missing ones
  /// included.
  void score(const KeyRecordLayout& block, const std::byte* record, float* scores) {
    const Index tokens = block.tokens(), groups = block.groups().groups();
    const int bits = block.bits_at(0);
    float* const midpoints = scales_ + groups * tokens;
    read_table(block.table(), record, 0, groups * tokens, max_code(bits), nullptr, scales_,
               midpoints);
    const float most = largest_alpha(bits, block.head_dim());
    for (Index group = 0; group < groups; ++group)
      largest_[group] = most / std::max(largest_of(scales_ + group * tokens, tokens), 1e-30f);
    for (Index first = 0; first < rows_; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows_ - first);
      float* const target = scores + first * simd::max_block;
      for (Index i = 0; i < count; ++i) std::fill_n(target + i * simd::max_block, tokens, 0.0f);
      kernels_.add_rows(midpoints, groups, tokens, sums_[first], max_groups, count, target,
                        simd::max_block);
      for (Index group = 0; group < groups; ++group) {
        const KeyRecordLayout::Run& run = block.runs()[static_cast<std::size_t>(group)];
        const Fold& fold = folds_[first / simd::max_heads][group];
        const Index at = first * simd::max_length + run.first;
        const auto add = [&](const auto* operands, const simd::Folded* folded, bool more) {
          add_products(block, run, record, operands + at, folded, count, more, parts_[0]);
        };
        if (fold.alpha8 <= largest_[group]) {
          add(operands8_, fold.folded8, false);
        } else if (fold.alpha16 <= fine * largest_[group]) {
          add(operands16_, fold.folded16, false);
        } else {
          add(operands16_, fold.folded_whole, false);
          add(operands_rest_, fold.folded_rest, true);
        }
        const float* scales = scales_ + group * tokens;
        for (Index i = 0; i < count; ++i)
          for (Index t = 0; t < tokens; ++t)
            target[i * simd::max_block + t] += scales[t] * parts_[i][t];
      }
    }
  }

 private:
  static constexpr Index spare = 32;  // kernels fill whole registers
  static constexpr Index max_groups = max_head_dim / 32;
  // Codes of a group often lie at one end of its range, and then errors of operands add up. With 16
  // bits there is no need to allow for much.
  static constexpr float fine = 0.1f;

  /// Operands of some rows and a group of channels.
  struct Fold {
    float alpha8;  // the largest of folded8; infinite where operands of 8 bits are too coarse
    float alpha16;
    simd::Folded folded8[simd::max_heads];
    simd::Folded folded16[simd::max_heads];
    simd::Folded folded_whole[simd::max_heads];  // folded16, with the offset of the rest
    simd::Folded folded_rest[simd::max_heads];
  };

  void fold(const KeyRecordLayout& block, Index first, Index group) {
    const Index head_dim = block.head_dim(), begin = block.groups().group_begin(group);
    const Index channels = block.groups().group_end(group) - begin;
    const Index count = std::min(simd::max_heads, rows_ - first);
    const int bits = block.bits_at(0);
    const float centre = max_code(bits) / 2;
    const float* q = queries_ + first * head_dim + begin;
    const Index at = first * simd::max_length + begin;
    Fold& fold = folds_[first / simd::max_heads][group];
    std::fill_n(ones_, channels, 1.0f);
    std::fill_n(zeros_, channels, 0.0f);
    fold.alpha16 = 0;
    for (Index i = 0; i < count; ++i) {
      const Index row = at + i * simd::max_length;
      // In units of a power of two 16 bits are exact, so that what they leave is known.
      const float largest = std::min(simd::largest_operand16(channels, bits), 32639.0f);
      float top = 0;
      for (Index c = 0; c < channels; ++c) top = std::max(top, std::abs(q[i * head_dim + c]));
      const float unit = std::exp2(std::ceil(std::log2(std::max(top, 1e-30f) / (largest - 1))));
      for (Index c = 0; c < channels; ++c) {
        whole_[c] = nearest_integer(q[i * head_dim + c] / unit) * unit;
        remainder_[c] = q[i * head_dim + c] - whole_[c];
      }
      kernels_.fold16(whole_, channels, 1, ones_, zeros_, channels, centre,
                      std::max(nearest_integer(top / unit), 1.0f), operands16_ + row,
                      fold.folded16 + i);
      kernels_.fold16(remainder_, channels, 1, ones_, zeros_, channels, centre, largest,
                      operands_rest_ + row, fold.folded_rest + i);
      fold.folded_whole[i] = {fold.folded16[i].alpha,
                              fold.folded16[i].offset + fold.folded_rest[i].offset};
      fold.alpha16 = std::max(fold.alpha16, unit);
    }
    fold.alpha8 = std::numeric_limits<float>::infinity();
    if (!takes_operands8(bits)) return;
    float units[simd::max_heads] = {};
    for (Index i = 0; i < count; ++i)
      units[i] = kernels_.to_fixed_point(q + i * head_dim, channels, fixed_ + i * simd::max_length);
    if (!kernels_.try_fold8(q, head_dim, fixed_, units, count, ones_, zeros_, channels, centre,
                            largest_crest(bits), std::numeric_limits<float>::max(), operands8_ + at,
                            fold.folded8))
      return;
    fold.alpha8 = 0;
    for (Index i = 0; i < count; ++i) fold.alpha8 = std::max(fold.alpha8, fold.folded8[i].alpha);
  }

  /// The largest of x[0..n), n a multiple of 8; none is negative.
  static float largest_of(const float* x, Index n) {
    float lanes[8] = {};
    for (Index i = 0; i < n; i += 8)
      for (Index lane = 0; lane < 8; ++lane)
        lanes[lane] = lanes[lane] < x[i + lane] ? x[i + lane] : lanes[lane];
    return *std::max_element(lanes, lanes + 8);
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index rows_ = 0;
  alignas(64) float queries_[max_rows * max_head_dim];
  float sums_[max_rows][max_groups];  // of a query's channels
  alignas(64) float ones_[max_head_dim];
  alignas(64) float zeros_[max_head_dim];
  alignas(64) float whole_[max_head_dim];
  alignas(64) float remainder_[max_head_dim];
  alignas(64) std::int16_t fixed_[simd::max_heads * simd::max_length + spare];
  alignas(64) std::int8_t operands8_[max_rows * simd::max_length + spare];
  alignas(64) std::int16_t operands16_[max_rows * simd::max_length + spare];
  alignas(64) std::int16_t operands_rest_[max_rows * simd::max_length + spare];
  Fold folds_[max_rows / simd::max_heads][max_groups];
  alignas(64) float scales_[2 * max_groups * simd::max_block];  // and midpoints behind them
  float largest_[max_groups];  // alpha of 8-bit operands that a group's scales allow
  alignas(64) float parts_[simd::max_heads][simd::max_block];
};

}  // namespace squat::detail
