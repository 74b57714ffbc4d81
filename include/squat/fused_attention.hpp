// Decode attention straight over packed codes.
#pragma once

#include <squat/layer_cache.hpp>
#include <squat/simd/dispatch.hpp>

namespace squat {

/// Attention of a few query rows of one kv head over a range of tokens, not yet normalised: with
/// several ranges, softmax is merged through `highest`.
struct PartialAttention {
  float* sum_values;  ///< [rows, stride] sum of exp(score - highest) * value
  float* sum;         ///< [rows] sum of exp(score - highest)
  float* highest;     ///< [rows] highest score, minus infinity where no token was seen
};

/// Computes partial attention from packed blocks: scales are folded into the query once a block,
/// and into the probabilities once a block and value group, so that all work per code is an integer
/// dot product. One object serves one thread.
template <class Scalar, int KeyBits, int ValueBits>
class FusedAttention {
 public:
  using Layer = LayerCache<Scalar, KeyBits, ValueBits>;

  /// Query rows (tokens times query heads of a kv head) that a call can take.
  static constexpr Index max_rows = 32;

  /// Attention of kv head `head` over the packed rows [first_row, last_row), which begin at token
  /// `first_token`, and if `with_residual` over the residual keys too. Row i of `queries`
  /// [rows, head_dim], times the softmax scale already, sees tokens up to positions[i]. The rows of
  /// result.sum_values are `stride` apart, at least head_dim rounded up to 16.
  void run(const Layer& layer, Index head, Index first_row, Index last_row, Index first_token,
           bool with_residual, const float* queries, const Index* positions, Index rows,
           Index stride, const PartialAttention& result) {
    const KeyBlock<KeyBits> key_block = layer.key_block();
    const ValueBlock<ValueBits> value_block = layer.value_block();
    head_dim_ = key_block.head_dim();
    stride_ = stride;
    groups_ = value_block.groups();
    std::fill_n(result.sum_values, rows * stride, 0.0f);
    std::fill_n(result.sum, rows, 0.0f);
    std::fill_n(result.highest, rows, minus_infinity);
    std::fill_n(offsets_, rows * groups_, 0.0f);
    if (KeyBits == 2)
      for (Index i = 0; i < rows; ++i)
        units_[i] = kernels_.fix(queries + i * head_dim_, head_dim_, fixed_[i]);

    Index token = first_token;
    for (Index r = first_row; r < last_row; ++r) {
      const BlockRow& row = layer.rows()[static_cast<std::size_t>(r)];
      score_codes(key_block, row.keys(head), queries, rows);
      hide_later(token, row.tokens, key_block.tokens(), positions, rows);
      if (row.has_padding) hide_padding(layer, token, row.tokens, rows);
      raise(key_block.tokens(), rows, result);
      if (row.value_tokens < row.tokens) {
        add_residual(layer, head, token, row.value_tokens, row.tokens, rows, result);
        for (Index i = 0; i < rows; ++i)
          std::fill(scores_[i] + row.value_tokens, scores_[i] + row.tokens, 0.0f);
      }
      if (row.value_tokens > 0) add_codes(value_block, row.values(head), rows, result);
      token += row.tokens;
    }
    for (; with_residual && token < layer.size(); token += chunk) {
      const Index count = std::min(chunk, layer.size() - token);
      gather(layer, token, count, head, &Layer::key);
      for (Index i = 0; i < rows; ++i)
        kernels_.dot_rows(tokens_, count, head_dim_, queries + i * head_dim_, scores_[i]);
      hide_later(token, count, chunk, positions, rows);
      hide_padding(layer, token, count, rows);
      raise(chunk, rows, result);
      add_residual(layer, head, token, 0, count, rows, result);
    }
    for (Index i = 0; i < rows; ++i)
      for (Index group = 0; group < groups_; ++group)
        for (Index c = value_block.group_begin(group); c < value_block.group_end(group); ++c)
          result.sum_values[i * stride + c] += offsets_[i * groups_ + group];
  }

 private:
  static constexpr Index chunk = 32;  // residual tokens taken at once
  static constexpr Index lanes = CodeTile<ValueBits>::lanes;
  static constexpr Index depths = CodeTile<ValueBits>::depths;
  static constexpr Index max_block = simd::max_block;
  static constexpr Index max_length = simd::max_length;
  static constexpr Index max_groups = max_length / 32;
  // Operands of 8 bits serve keys of 2 where their rounding stays a tenth of that of the codes, and
  // moves a score by a few hundredths at most.
  static constexpr float largest_crest = 8;
  static constexpr float largest_alpha = 0.1f;  // times sqrt(head_dim)
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

  template <int Bits>
  static constexpr float centre = static_cast<float>((1 << Bits) - 1) / 2;

  /// scores_[i][t] of every token of a block, padding and missing ones included.
  void score_codes(const KeyBlock<KeyBits>& block, const std::byte* record, const float* queries,
                   Index rows) {
    widen(block.table(), record, centre<KeyBits>);
    const float* middles = table_ + head_dim_;
    const std::uint8_t* tiles = block.tile(record, 0, 0)->bytes;
    const Index depth_tiles = head_dim_ / CodeTile<KeyBits>::depths;
    const Index lane_rows = block.tokens() / CodeTile<KeyBits>::lanes;
    const simd::DotKernels<KeyBits>& dots = simd::dot_kernels<KeyBits>();
    for (Index first = 0; first < rows; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows - first);
      const float* q = queries + first * head_dim_;
      if constexpr (KeyBits == 2) {
        if (kernels_.try_fold8(q, head_dim_, fixed_[first], units_ + first, count, table_, middles,
                               head_dim_, centre<KeyBits>, largest_crest,
                               largest_alpha / std::sqrt(static_cast<float>(head_dim_)), operands8_,
                               folded_)) {
          dots.dot8({tiles, lane_rows, depth_tiles, count, operands8_, max_length, lane_rows, 0},
                    folded_, scores_[first], max_block);
          continue;
        }
      }
      kernels_.fold16(q, head_dim_, count, table_, middles, head_dim_, centre<KeyBits>,
                      simd::largest_operand16(head_dim_, KeyBits), operands16_, folded_);
      dots.dot16({tiles, lane_rows, depth_tiles, count, operands16_, max_length, lane_rows, 0},
                 folded_, scores_[first], max_block);
    }
  }

  /// Minus infinity for tokens that a row must not see yet, and for slots [count, padded).
  void hide_later(Index first_token, Index count, Index padded, const Index* positions,
                  Index rows) {
    // Positions ascend: what the first row sees, all see.
    if (count == padded && positions[0] >= first_token + count - 1) return;
    for (Index i = 0; i < rows; ++i) {
      const Index seen = std::min(std::max(positions[i] + 1 - first_token, Index{0}), count);
      std::fill(scores_[i] + seen, scores_[i] + padded, minus_infinity);
    }
  }

  void hide_padding(const Layer& layer, Index first_token, Index count, Index rows) {
    for (Index t = 0; t < count; ++t)
      if (!layer.is_valid(first_token + t))
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
        for (Index group = 0; group < groups_; ++group) offsets_[i * groups_ + group] *= fading;
        result.highest[i] = highest;
      }
      result.sum[i] += sum;
    }
  }

  /// Adds scores_[.][begin, end) times the residual values of tokens first_token + [begin, end).
  void add_residual(const Layer& layer, Index head, Index first_token, Index begin, Index end,
                    Index rows, const PartialAttention& result) {
    for (; begin < end; begin += chunk) {
      const Index count = std::min(chunk, end - begin);
      gather(layer, first_token + begin, count, head, &Layer::value);
      for (Index i = 0; i < rows; ++i)
        kernels_.add_rows(tokens_, count, head_dim_, scores_[i] + begin,
                          result.sum_values + i * stride_);
    }
  }

  /// Adds scores_ times the values of a block.
  void add_codes(const ValueBlock<ValueBits>& block, const std::byte* record, Index rows,
                 const PartialAttention& result) {
    widen(block.table(), record, centre<ValueBits>);
    const float* middles = table_ + block.table().entries();
    const Index tokens = block.tokens();
    const Index lane_rows = stride_ / lanes;
    const Index rows_per_group = round_up(block.group_end(0), lanes) / lanes;
    const simd::DotKernels<ValueBits>& dots = simd::dot_kernels<ValueBits>();
    for (Index first = 0; first < rows; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows - first);
      const std::uint8_t* tiles = block.tile(record, 0, 0)->bytes;
      float* out = result.sum_values + first * stride_;
      if (!add_codes8(block, tiles, scores_[first], count, middles, out)) {
        for (Index group = 0; group < groups_; ++group)
          kernels_.fold16(scores_[first], max_block, count, table_ + group * tokens,
                          middles + group * tokens, tokens, centre<ValueBits>,
                          simd::largest_operand16(tokens, ValueBits),
                          value_operands16_ + group * simd::max_heads * max_length,
                          value_folded_ + group * simd::max_heads);
        dots.accumulate16({tiles, lane_rows, tokens / depths, count, value_operands16_, max_length,
                           rows_per_group, simd::max_heads * max_length},
                          value_folded_, out, stride_);
      }
      for (Index i = 0; i < count; ++i)
        for (Index group = 0; group < groups_; ++group)
          offsets_[(first + i) * groups_ + group] +=
              value_folded_[group * simd::max_heads + i].offset;
    }
  }

  /// Adds with 8-bit operands, or returns false where they are too coarse: codes of more than two
  /// bits, and blocks in which the most probable token has a small scale beside another one's.
  bool add_codes8(const ValueBlock<ValueBits>& block, const std::uint8_t* tiles,
                  const float* scores, Index count, const float* middles, float* out) {
    if constexpr (ValueBits == 2) {
      const Index tokens = block.tokens();
      kernels_.fold8(scores, max_block, count, table_, middles, groups_, tokens, centre<ValueBits>,
                     value_operands8_, value_folded_);
      // Rounding then adds at most a tenth to what rounding of the codes does:
      // sqrt((5 / 4) n / sum of squares) <= 0.1.
      const std::int32_t least = static_cast<std::int32_t>(125 * tokens);
      if (!kernels_.is_fine8(value_operands8_, value_folded_, count, groups_, tokens, least))
        return false;
      const Index rows_per_group = round_up(block.group_end(0), lanes) / lanes;
      simd::dot_kernels<ValueBits>().accumulate8(
          {tiles, stride_ / lanes, tokens / depths, count, value_operands8_, max_block,
           rows_per_group, simd::max_heads * max_block},
          value_folded_, out, stride_);
      return true;
    }
    return false;
  }

  /// Scales of a record into table_, and behind them what the middle code stands for.
  void widen(const AffineTable& table, const std::byte* bytes, float centre) {
    const Index n = table.entries();
    if (table.scale_bits() == 16) {
      kernels_.widen(reinterpret_cast<const std::uint16_t*>(bytes), n, centre, table_, table_ + n);
    } else {
      std::memcpy(table_, bytes, static_cast<std::size_t>(table.bytes()));
      for (Index i = 0; i < n; ++i) table_[n + i] += centre * table_[i];
    }
  }

  /// Residual keys or values of `count` tokens in single precision into tokens_.
  void gather(const Layer& layer, Index first, Index count, Index head,
              const Scalar* (Layer::*what)(Index) const) {
    for (Index t = 0; t < count; ++t) {
      const Scalar* row = (layer.*what)(first + t) + head * head_dim_;
      for (Index c = 0; c < head_dim_; ++c) tokens_[t * head_dim_ + c] = static_cast<float>(row[c]);
    }
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index head_dim_ = 0;
  Index stride_ = 0;
  Index groups_ = 0;
  alignas(64) float scores_[max_rows][max_block];
  alignas(64) float tokens_[chunk * max_length];
  alignas(64) float table_[2 * (max_length + max_block)];
  alignas(64) std::int16_t fixed_[max_rows][max_length];  // queries as try_fold8 wants them
  float units_[max_rows];
  alignas(64) std::int8_t operands8_[simd::max_heads * max_length];
  alignas(64) std::int16_t operands16_[simd::max_heads * max_length];
  simd::Folded folded_[simd::max_heads];
  alignas(64) std::int8_t value_operands8_[max_groups * simd::max_heads * max_block];
  alignas(64) std::int16_t value_operands16_[max_groups * simd::max_heads * max_length];
  simd::Folded value_folded_[max_groups * simd::max_heads];
  float offsets_[max_rows * max_groups];  // per row and value group: what codes do not enter
};

}  // namespace squat
