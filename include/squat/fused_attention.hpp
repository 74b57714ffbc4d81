// Decode attention straight over packed codes.
#pragma once

#include <squat/layer_cache.hpp>
#include <squat/simd/encode.hpp>

namespace squat {

/// Attention of a few query rows of one kv head over a range of tokens, not yet normalised: with
/// several ranges, softmax is merged through `highest`.
struct PartialAttention {
  float* sum_values;  ///< [rows, stride] sum of exp(score - highest) * value
  float* sum;         ///< [rows] sum of exp(score - highest)
  float* highest;     ///< [rows] highest score, minus infinity where no token was seen
};

/// A part of what a layer holds: rows of blocks and, in the last one, the residual.
struct Segment {
  Index first_row;
  Index last_row;
  Index first_token;  ///< of first_row or, where that is behind the last row, of the residual
  bool is_first;      ///< brings the exact tokens beyond the window
  bool is_last;       ///< brings the residual
};

/// Computes partial attention from packed blocks: scales are folded into the query once a block,
/// and into the probabilities once a block and value group, so that all work per code is an integer
/// dot product. One object serves one thread.
template <class Scalar>
class FusedAttention {
 public:
  using Layer = LayerCache<Scalar>;

  /// Query rows (tokens times query heads of a kv head) that a call can take.
  static constexpr Index max_rows = 32;

  /// Attention of kv head `head` over a segment. Row i of `queries` [rows, head_dim], times the
  /// softmax scale already, sees the tokens seen[i], whose ends ascend, and exact ones before them.
  /// The rows of result.sum_values are `stride` apart, at least head_dim rounded up to 16.
  void run(const Layer& layer, Index head, const Segment& segment, const float* queries,
           const TokenRange* seen, Index rows, Index stride, const PartialAttention& result) {
    const ValueBlock& value_block = layer.value_block();
    head_dim_ = value_block.head_dim();
    stride_ = stride;
    groups_ = value_block.groups();
    // What is not rotated is added after the rest was rotated back.
    plain_ = value_block.is_rotated() ? plain_sums_ : result.sum_values;
    std::fill_n(result.sum_values, rows * stride, 0.0f);
    std::fill_n(plain_, rows * stride, 0.0f);
    std::fill_n(result.sum, rows, 0.0f);
    std::fill_n(result.highest, rows, minus_infinity);
    std::fill_n(offsets_, rows * groups_, 0.0f);

    if (segment.is_first && layer.has_window()) add_sinks(layer, head, queries, seen, rows, result);
    const KeyBlock* ordered_for = nullptr;
    Index token = segment.first_token;
    for (Index r = segment.first_row; r < segment.last_row; ++r) {
      const BlockRow& row = layer.rows()[static_cast<std::size_t>(r)];
      const KeyBlock& key_block = row.key_block(head);
      if (&key_block != ordered_for) order(key_block, queries, rows);
      ordered_for = &key_block;
      score_codes(key_block, row.keys(head), rows);
      if (row.has_exact) score_exact(layer, head, token, row.tokens, queries, rows);
      hide_unseen(token, row.tokens, key_block.tokens(), seen, rows);
      if (row.has_padding) hide_padding(row.tokens, rows, [&](Index t) { return row.is_valid(t); });
      raise(key_block.tokens(), rows, result);
      if (row.value_tokens < row.tokens) {
        add_residual(layer, head, token, row.value_tokens, row.tokens, rows);
        for (Index i = 0; i < rows; ++i)
          std::fill(scores_[i] + row.value_tokens, scores_[i] + row.tokens, 0.0f);
      }
      if (row.has_exact) add_exact(layer, head, token, row.value_tokens, rows);
      if (row.value_tokens > 0) add_codes(value_block, row.values(head), rows, result);
      token += row.tokens;
    }
    for (; segment.is_last && token < layer.size(); token += chunk) {
      const Index count = std::min(chunk, layer.size() - token);
      gather(layer, token, count, head, &Layer::key);
      for (Index i = 0; i < rows; ++i)
        kernels_.dot_rows(tokens_, count, head_dim_, queries + i * head_dim_, scores_[i]);
      hide_unseen(token, count, chunk, seen, rows);
      hide_padding(count, rows, [&](Index t) { return layer.is_valid(token + t); });
      raise(chunk, rows, result);
      add_residual(layer, head, token, 0, count, rows);
    }
    for (Index i = 0; i < rows; ++i) {
      float* sums = result.sum_values + i * stride;
      for (Index group = 0; group < groups_; ++group)
        for (Index c = value_block.group_begin(group); c < value_block.group_end(group); ++c)
          sums[c] += offsets_[i * groups_ + group];
      if (!value_block.is_rotated()) continue;
      simd::encode_kernels().rotate(sums, head_dim_);
      for (Index c = 0; c < head_dim_; ++c) sums[c] += plain_[i * stride + c];
    }
  }

 private:
  static constexpr Index chunk = 32;              // residual tokens taken at once
  static constexpr Index lanes = 16, depths = 8;  // of a tile
  static constexpr Index max_block = simd::max_block;
  static constexpr Index max_length = simd::max_length;
  static constexpr Index max_groups = max_length / 32;
  static constexpr Index max_runs = max_length / 8;
  static constexpr Index spare = 32;  // kernels fill whole registers
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

  static constexpr float levels(int bits) { return static_cast<float>((1 << bits) - 1); }

  /// Whether codes of so many bits may meet operands of 8 bits at all.
  static constexpr bool takes_operands8(int bits) { return bits <= 3; }
  // Operands of 8 bits serve keys where their rounding stays a tenth of that of the codes, and
  // moves a score by a few hundredths at most.
  static constexpr float largest_crest(int bits) { return 8 * 3 / levels(bits); }
  static constexpr float largest_alpha(int bits) { return 0.1f * 3 / levels(bits); }

  /// Queries by position in `block`.
  void order(const KeyBlock& block, const float* queries, Index rows) {
    for (Index i = 0; i < rows; ++i) {
      float* target = ordered_ + i * head_dim_;
      for (Index p = 0; p < head_dim_; ++p)
        target[p] = queries[i * head_dim_ + block.channel_at(p)];
      units_[i] = kernels_.fix(target, head_dim_, fixed_ + i * max_length);
    }
  }

  /// scores_[i][t] of every token of a block, padding and missing ones included.
  void score_codes(const KeyBlock& block, const std::byte* record, Index rows) {
    float* const scales = table_;
    float* const middles = table_ + head_dim_;
    for (const KeyBlock::Run& run : block.runs())
      widen(block.table(), record, run.first, run.count, levels(run.bits), block.expected(),
            scales + run.first, middles + run.first);
    const Index lane_rows = block.tokens() / lanes;
    const Index runs = static_cast<Index>(block.runs().size());
    for (Index first = 0; first < rows; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows - first);
      for (Index r = 0; r < runs; ++r) {
        is_fine8_[r] = fold_run(block.runs()[static_cast<std::size_t>(r)], first, count, scales,
                                middles, folded_ + r * simd::max_heads);
        for (Index i = 0; r > 0 && i < count; ++i)
          folded_[i].offset += folded_[r * simd::max_heads + i].offset;
      }
      for (Index r = 0; r < runs; ++r)
        dot_run(block, block.runs()[static_cast<std::size_t>(r)], record, lane_rows, count,
                is_fine8_[r], r == 0, folded_ + r * simd::max_heads, scores_[first]);
    }
  }

  /// Makes operands of 8 or 16 bits of the channels of a run; returns whether they have 8.
  bool fold_run(const KeyBlock::Run& run, Index first, Index count, const float* scales,
                const float* middles, simd::Folded* folded) {
    const float* q = ordered_ + first * head_dim_ + run.first;
    const float centre = levels(run.bits) / 2;
    if (takes_operands8(run.bits) &&
        kernels_.try_fold8(q, head_dim_, fixed_ + first * max_length + run.first, units_ + first,
                           count, scales + run.first, middles + run.first, run.count, centre,
                           largest_crest(run.bits),
                           largest_alpha(run.bits) / std::sqrt(static_cast<float>(head_dim_)),
                           operands8_ + run.first, folded))
      return true;
    kernels_.fold16(q, head_dim_, count, scales + run.first, middles + run.first, run.count, centre,
                    simd::largest_operand16(run.count, run.bits), operands16_ + run.first, folded);
    return false;
  }

  /// Sets (or adds to) scores with the products of a run.
  void dot_run(const KeyBlock& block, const KeyBlock::Run& run, const std::byte* record,
               Index lane_rows, Index count, bool eight, bool set, const simd::Folded* folded,
               float* scores) {
    for (int plane = 0; plane < run.planes.count; ++plane) {
      const simd::DotKernels& dots = simd::dot_kernels(run.planes.bits[plane]);
      const std::uint8_t* tiles = block.tile(record, run, plane, 0, run.first);
      simd::Folded shifted[simd::max_heads];
      const float unit = static_cast<float>(1 << run.planes.shift[plane]);
      for (Index i = 0; i < count; ++i) shifted[i] = {folded[i].alpha * unit, folded[i].offset};
      const bool add = !set || plane > 0;
      if (eight)
        dots.dot8({tiles, lane_rows, run.count / depths, count, operands8_ + run.first, max_length,
                   lane_rows, 0, add},
                  shifted, scores, max_block);
      else
        dots.dot16({tiles, lane_rows, run.count / depths, count, operands16_ + run.first,
                    max_length, lane_rows, 0, add},
                   shifted, scores, max_block);
    }
  }

  /// Calls use(index, offset) for the exact tokens among the `count` from first_token on.
  template <class Use>
  static void for_exact(const Layer& layer, Index first_token, Index count, const Use& use) {
    for (Index i = 0; i < layer.exact_tokens(); ++i) {
      const Index offset = layer.exact_position(i) - first_token;
      if (offset >= 0 && offset < count) use(i, offset);
    }
  }

  /// Scores of exact tokens, in place of what their slots hold.
  void score_exact(const Layer& layer, Index head, Index first_token, Index count,
                   const float* queries, Index rows) {
    for_exact(layer, first_token, count, [&](Index index, Index offset) {
      widen_row(layer.exact_key(index) + head * head_dim_, tokens_);
      for (Index i = 0; i < rows; ++i)
        kernels_.dot_rows(tokens_, 1, head_dim_, queries + i * head_dim_, scores_[i] + offset);
    });
  }

  /// Adds exact values, and takes their weight from what their slots hold.
  void add_exact(const Layer& layer, Index head, Index first_token, Index count, Index rows) {
    for_exact(layer, first_token, count, [&](Index index, Index offset) {
      widen_row(layer.exact_value(index) + head * head_dim_, tokens_);
      for (Index i = 0; i < rows; ++i) {
        kernels_.add_rows(tokens_, 1, head_dim_, scores_[i] + offset, plain_ + i * stride_);
        scores_[i][offset] = 0;
      }
    });
  }

  /// Exact tokens that are beyond the window of a row.
  void add_sinks(const Layer& layer, Index head, const float* queries, const TokenRange* seen,
                 Index rows, const PartialAttention& result) {
    const Index sinks = layer.exact_before(seen[rows - 1].begin);
    for (Index first = 0; first < sinks; first += chunk) {
      const Index count = std::min(chunk, sinks - first);
      gather(layer, first, count, head, &Layer::exact_key);
      for (Index i = 0; i < rows; ++i) {
        kernels_.dot_rows(tokens_, count, head_dim_, queries + i * head_dim_, scores_[i]);
        const Index shown = std::clamp(layer.exact_before(seen[i].begin) - first, Index{0}, count);
        std::fill(scores_[i] + shown, scores_[i] + chunk, minus_infinity);
      }
      raise(chunk, rows, result);
      gather(layer, first, count, head, &Layer::exact_value);
      for (Index i = 0; i < rows; ++i)
        kernels_.add_rows(tokens_, count, head_dim_, scores_[i], plain_ + i * stride_);
    }
  }

  /// Minus infinity for tokens that a row does not see, and for slots [count, padded).
  void hide_unseen(Index first_token, Index count, Index padded, const TokenRange* seen,
                   Index rows) {
    // Ranges ascend: what the first row still sees and the last one already, all see.
    if (count == padded && seen[0].end >= first_token + count &&
        seen[rows - 1].begin <= first_token)
      return;
    for (Index i = 0; i < rows; ++i) {
      const Index begin = std::clamp(seen[i].begin - first_token, Index{0}, count);
      const Index end = std::clamp(seen[i].end - first_token, begin, count);
      std::fill(scores_[i], scores_[i] + begin, minus_infinity);
      std::fill(scores_[i] + end, scores_[i] + padded, minus_infinity);
    }
  }

  /// Minus infinity for those of `count` tokens that `is_valid` leaves out.
  template <class IsValid>
  void hide_padding(Index count, Index rows, const IsValid& is_valid) {
    for (Index t = 0; t < count; ++t)
      if (!is_valid(t))
        for (Index i = 0; i < rows; ++i) scores_[i][t] = minus_infinity;
  }

  /// Turns scores into exp(score - highest), and fades what was summed under a lower highest.
  void raise(Index count, Index rows, const PartialAttention& result) {
    for (Index i = 0; i < rows; ++i) {
      float highest = result.highest[i];
      const float sum = kernels_.exponentiate(scores_[i], count, highest);
      if (highest != result.highest[i]) {
        const float fading = std::exp(result.highest[i] - highest);
        result.sum[i] *= fading;
        for (Index c = 0; c < stride_; ++c) result.sum_values[i * stride_ + c] *= fading;
        if (plain_ != result.sum_values)
          for (Index c = 0; c < stride_; ++c) plain_[i * stride_ + c] *= fading;
        for (Index group = 0; group < groups_; ++group) offsets_[i * groups_ + group] *= fading;
        result.highest[i] = highest;
      }
      result.sum[i] += sum;
    }
  }

  /// Adds scores_[.][begin, end) times the residual values of tokens first_token + [begin, end).
  void add_residual(const Layer& layer, Index head, Index first_token, Index begin, Index end,
                    Index rows) {
    for (; begin < end; begin += chunk) {
      const Index count = std::min(chunk, end - begin);
      gather(layer, first_token + begin, count, head, &Layer::value);
      for (Index i = 0; i < rows; ++i)
        kernels_.add_rows(tokens_, count, head_dim_, scores_[i] + begin, plain_ + i * stride_);
    }
  }

  /// Adds scores_ times the values of a block.
  void add_codes(const ValueBlock& block, const std::byte* record, Index rows,
                 const PartialAttention& result) {
    const Index tokens = block.tokens(), entries = block.table().entries();
    const float* middles = table_ + entries;
    widen(block.table(), record, 0, entries, levels(block.bits()), nullptr, table_,
          table_ + entries);
    const Index rows_per_group = round_up(block.group_end(0), lanes) / lanes;
    const simd::DotKernels& dots = simd::dot_kernels(block.bits());
    const std::uint8_t* tiles = block.tile(record, 0, 0);
    for (Index first = 0; first < rows; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows - first);
      float* out = result.sum_values + first * stride_;
      if (fold8(block, scores_[first], count, middles)) {
        dots.dot8({tiles, stride_ / lanes, tokens / depths, count, value_operands8_, max_block,
                   rows_per_group, simd::max_heads * max_block, true},
                  value_folded_, out, stride_);
      } else {
        for (Index group = 0; group < groups_; ++group)
          kernels_.fold16(scores_[first], max_block, count, table_ + group * tokens,
                          middles + group * tokens, tokens, levels(block.bits()) / 2,
                          simd::largest_operand16(tokens, block.bits()),
                          value_operands16_ + group * simd::max_heads * max_length,
                          value_folded_ + group * simd::max_heads);
        dots.dot16({tiles, stride_ / lanes, tokens / depths, count, value_operands16_, max_length,
                    rows_per_group, simd::max_heads * max_length, true},
                   value_folded_, out, stride_);
      }
      for (Index i = 0; i < count; ++i)
        for (Index group = 0; group < groups_; ++group)
          offsets_[(first + i) * groups_ + group] +=
              value_folded_[group * simd::max_heads + i].offset;
    }
  }

  /// Makes operands of 8 bits, or returns false where they are too coarse: for wide codes, and in
  /// blocks in which the most probable token has a small scale beside another one's.
  bool fold8(const ValueBlock& block, const float* scores, Index count, const float* middles) {
    if (!takes_operands8(block.bits())) return false;
    const Index tokens = block.tokens();
    kernels_.fold8(scores, max_block, count, table_, middles, groups_, tokens,
                   levels(block.bits()) / 2, value_operands8_, value_folded_);
    // Rounding then adds at most a tenth to what rounding of the codes does:
    // sqrt(n (4^bits - 1) / 12 / sum of squares) <= 0.1.
    const std::int32_t least =
        static_cast<std::int32_t>(100 * tokens * ((1 << (2 * block.bits())) - 1) / 12);
    return kernels_.is_fine8(value_operands8_, value_folded_, count, groups_, tokens, least);
  }

  /// Scales of `count` entries of a record's table, and what the middle code stands for.
  void widen(const AffineTable& table, const std::byte* record, Index first, Index count,
             float levels, const float* expected, float* scales, float* middles) const {
    const std::byte* scale = table.scale(record, first);
    const std::byte* zero = table.has_zeros() ? table.zero(record, first) : nullptr;
    if (table.scale_bits() == 8) {
      kernels_.widen8(reinterpret_cast<const std::uint8_t*>(scale),
                      reinterpret_cast<const std::int8_t*>(zero),
                      expected == nullptr ? nullptr : expected + first, count,
                      levels / middle_steps, scales, middles);
    } else if (table.scale_bits() == 16) {
      kernels_.widen(reinterpret_cast<const std::uint16_t*>(scale),
                     reinterpret_cast<const std::uint16_t*>(zero), count, levels / 2, scales,
                     middles);
    } else {
      const std::size_t bytes = static_cast<std::size_t>(4 * count);
      std::memcpy(scales, scale, bytes);
      std::fill_n(middles, count, 0.0f);
      if (zero == nullptr) return;
      std::memcpy(middles, zero, bytes);
      for (Index i = 0; i < count; ++i) middles[i] += levels / 2 * scales[i];
    }
  }

  void widen_row(const Scalar* row, float* out) const {
    for (Index c = 0; c < head_dim_; ++c) out[c] = static_cast<float>(row[c]);
  }

  /// Residual keys or values of `count` tokens in single precision into tokens_.
  void gather(const Layer& layer, Index first, Index count, Index head,
              const Scalar* (Layer::*what)(Index) const) {
    for (Index t = 0; t < count; ++t)
      widen_row((layer.*what)(first + t) + head * head_dim_, tokens_ + t * head_dim_);
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index head_dim_ = 0;
  Index stride_ = 0;
  Index groups_ = 0;
  float* plain_ = nullptr;  // sums of what is not rotated [rows, stride]
  bool is_fine8_[max_runs];
  alignas(64) float scores_[max_rows][max_block];
  alignas(64) float tokens_[chunk * max_length];
  alignas(64) float table_[2 * max_groups * max_block];
  alignas(64) float ordered_[max_rows * max_length];
  alignas(64) std::int16_t fixed_[max_rows * max_length + spare];  // as try_fold8 wants queries
  float units_[max_rows];
  alignas(64) std::int8_t operands8_[simd::max_heads * max_length + spare];
  alignas(64) std::int16_t operands16_[simd::max_heads * max_length + spare];
  simd::Folded folded_[max_runs * simd::max_heads];
  alignas(64) std::int8_t value_operands8_[max_groups * simd::max_heads * max_block];
  alignas(64) std::int16_t value_operands16_[max_groups * simd::max_heads * max_length];
  simd::Folded value_folded_[max_groups * simd::max_heads];
  float offsets_[max_rows * max_groups];  // per row and value group: what codes do not enter
  alignas(64) float plain_sums_[max_rows * max_length];
};

}  // namespace squat
