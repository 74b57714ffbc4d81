// Decode attention straight over packed codes.
#pragma once

#include <squat/channel_key_scores.hpp>
#include <squat/layer_cache.hpp>
#include <squat/token_key_scores.hpp>

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

/// Computes partial attention from packed blocks: key scales are folded into the query once a block
/// (or weigh the products of a token), value scales into the probabilities once a block and value
/// group, so that all work per code is an integer dot product. One object serves one thread.
template <class Scalar>
class FusedAttention {
 public:
  using Layer = LayerCache<Scalar>;

  /// Query rows (tokens times query heads of a kv head) that a call can take.
  static constexpr Index max_rows = ChannelKeyScores::max_rows;

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
    const KeyBlock* prepared_for = nullptr;
    Index token = segment.first_token;
    for (Index r = segment.first_row; r < segment.last_row; ++r) {
      const BlockRow& row = layer.rows()[static_cast<std::size_t>(r)];
      const KeyBlock& key_block = row.key_block(head);
      if (&key_block != prepared_for) prepare(key_block, queries, rows);
      prepared_for = &key_block;
      // Keys and values of a block lie apart, and memory would be waited for at the beginning of
      // each. Asking for both at once would hold up what is read meanwhile.
      if (row.value_tokens > 0) prefetch(row.values(head), value_block.bytes());
      if (key_block.is_per_token())
        token_keys_.score(key_block, row.keys(head), scores_[0]);
      else
        channel_keys_.score(key_block, row.keys(head), scores_[0]);
      if (r + 1 < segment.last_row) {
        const BlockRow& next = layer.rows()[static_cast<std::size_t>(r + 1)];
        prefetch(next.keys(head), next.key_block(head).bytes());
      }
      if (row.has_exact) score_exact(layer, head, token, row.tokens, queries, rows);
      hide_unseen(token, row.tokens, key_block.tokens(), seen, rows);
      if (row.has_padding) hide_padding(row.tokens, rows, [&](Index t) { return row.is_valid(t); });
      // Waits for nothing, and so fills what raise() waits for.
      if (row.value_tokens > 0) read_values(value_block, row.values(head));
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
      gather(count, head, [&](Index t) { return layer.key(token + t); });
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
  static constexpr Index max_groups = simd::max_head_dim / 32;
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

  void prepare(const KeyBlock& block, const float* queries, Index rows) {
    if (block.is_per_token())
      token_keys_.prepare(block, queries, rows);
    else
      channel_keys_.prepare(block, queries, rows);
  }

  /// Asks for all cache lines of a record.
  static void prefetch([[maybe_unused]] const std::byte* record, [[maybe_unused]] Index bytes) {
#if defined(__GNUC__) || defined(__clang__)
    constexpr Index line = 64;
    for (; bytes >= 4 * line; bytes -= 4 * line, record += 4 * line) {
      __builtin_prefetch(record);
      __builtin_prefetch(record + line);
      __builtin_prefetch(record + 2 * line);
      __builtin_prefetch(record + 3 * line);
    }
    for (Index i = 0; i < bytes; i += line) __builtin_prefetch(record + i);
#endif
  }

  /// Calls use(index, offset) for the exact tokens among the `count` from first_token on.
  template <class Use>
  static void for_exact(const Layer& layer, Index first_token, Index count, const Use& use) {
    for (Index i = 0; i < layer.exact().size(); ++i) {
      const Index offset = layer.exact().position(i) - first_token;
      if (offset >= 0 && offset < count) use(i, offset);
    }
  }

  /// Scores of exact tokens, in place of what their slots hold.
  void score_exact(const Layer& layer, Index head, Index first_token, Index count,
                   const float* queries, Index rows) {
    for_exact(layer, first_token, count, [&](Index index, Index offset) {
      widen_row(layer.exact().keys.row(index) + head * head_dim_, tokens_);
      for (Index i = 0; i < rows; ++i)
        kernels_.dot_rows(tokens_, 1, head_dim_, queries + i * head_dim_, scores_[i] + offset);
    });
  }

  /// Adds exact values, and takes their weight from what their slots hold.
  void add_exact(const Layer& layer, Index head, Index first_token, Index count, Index rows) {
    for_exact(layer, first_token, count, [&](Index index, Index offset) {
      widen_row(layer.exact().values.row(index) + head * head_dim_, tokens_);
      for (Index i = 0; i < rows; ++i) {
        kernels_.add_rows(tokens_, 1, head_dim_, scores_[i] + offset, plain_ + i * stride_);
        scores_[i][offset] = 0;
      }
    });
  }

  /// Exact tokens that are beyond the window of a row.
  void add_sinks(const Layer& layer, Index head, const float* queries, const TokenRange* seen,
                 Index rows, const PartialAttention& result) {
    const ExactTokens<Scalar>& exact = layer.exact();
    const Index sinks = exact.before(seen[rows - 1].begin);
    for (Index first = 0; first < sinks; first += chunk) {
      const Index count = std::min(chunk, sinks - first);
      gather(count, head, [&](Index t) { return exact.keys.row(first + t); });
      for (Index i = 0; i < rows; ++i) {
        kernels_.dot_rows(tokens_, count, head_dim_, queries + i * head_dim_, scores_[i]);
        const Index shown = std::clamp(exact.before(seen[i].begin) - first, Index{0}, count);
        std::fill(scores_[i] + shown, scores_[i] + chunk, minus_infinity);
      }
      raise(chunk, rows, result);
      gather(count, head, [&](Index t) { return exact.values.row(first + t); });
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
    float before[max_rows], sums[max_rows];
    std::copy_n(result.highest, rows, before);
    kernels_.exponentiate(scores_[0], max_block, rows, count, result.highest, sums);
    for (Index i = 0; i < rows; ++i) {
      if (result.highest[i] != before[i]) {
        const float fading = std::exp(before[i] - result.highest[i]);
        result.sum[i] *= fading;
        for (Index c = 0; c < stride_; ++c) result.sum_values[i * stride_ + c] *= fading;
        if (plain_ != result.sum_values)
          for (Index c = 0; c < stride_; ++c) plain_[i * stride_ + c] *= fading;
        for (Index group = 0; group < groups_; ++group) offsets_[i * groups_ + group] *= fading;
      }
      result.sum[i] += sums[i];
    }
  }

  /// Adds scores_[.][begin, end) times the residual values of tokens first_token + [begin, end).
  void add_residual(const Layer& layer, Index head, Index first_token, Index begin, Index end,
                    Index rows) {
    for (; begin < end; begin += chunk) {
      const Index count = std::min(chunk, end - begin);
      gather(count, head, [&](Index t) { return layer.value(first_token + begin + t); });
      for (Index i = 0; i < rows; ++i)
        kernels_.add_rows(tokens_, count, head_dim_, scores_[i] + begin, plain_ + i * stride_);
    }
  }

  /// Scales of a block, and behind them middles, into table_.
  void read_values(const ValueBlock& block, const std::byte* record) {
    const Index entries = block.table().entries();
    read_table(block.table(), record, 0, entries, largest_code(block.bits()), nullptr, table_,
               table_ + entries);
  }

  /// Adds scores_ times the values of a block whose table is read.
  void add_codes(const ValueBlock& block, const std::byte* record, Index rows,
                 const PartialAttention& result) {
    const Index tokens = block.tokens();
    const float* middles = table_ + block.table().entries();
    const Index rows_per_group = round_up(block.group_end(0), lanes) / lanes;
    const simd::DotKernels& dots = simd::dot_kernels(block.bits());
    const std::uint8_t* tiles = block.tile(record, 0, 0);
    for (Index first = 0; first < rows; first += simd::max_heads) {
      const Index count = std::min(simd::max_heads, rows - first);
      float* out = result.sum_values + first * stride_;
      if (dots.dot8_positive != nullptr && try_fold8(block, scores_[first], count, middles)) {
        dots.dot8_positive({tiles, stride_ / lanes, tokens / depths, count, value_operands8_,
                            max_block, rows_per_group, simd::max_heads * max_block, true},
                           value_folded_, out, stride_);
      } else {
        for (Index group = 0; group < groups_; ++group)
          kernels_.fold16(scores_[first], max_block, count, table_ + group * tokens,
                          middles + group * tokens, tokens, largest_code(block.bits()) / 2,
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

  /// Makes operands of 8 bits, or returns false where they are too coarse: in blocks in which the
  /// most probable token has a small scale beside another one's.
  bool try_fold8(const ValueBlock& block, const float* scores, Index count, const float* middles) {
    const Index tokens = block.tokens();
    // Operands are off by sqrt(1 / 12), codes from their middle by sqrt((4^bits - 1) / 12). So
    // rounding makes at most a seventh of the error that codes of 4 bits make in a group, narrower
    // ones less than that, and a three-hundredth of their ranges.
    const auto least = static_cast<std::int32_t>(1000 * tokens);
    return kernels_.try_fold8_positive(scores, max_block, count, table_, middles, groups_, tokens,
                                       largest_code(block.bits()) / 2, least, value_operands8_,
                                       value_folded_);
  }

  void widen_row(const Scalar* row, float* out) const {
    for (Index c = 0; c < head_dim_; ++c) out[c] = static_cast<float>(row[c]);
  }

  /// Keys or values of `count` tokens, row(t) [kv_heads * head_dim], in single precision into
  /// tokens_.
  template <class Row>
  void gather(Index count, Index head, const Row& row) {
    for (Index t = 0; t < count; ++t) widen_row(row(t) + head * head_dim_, tokens_ + t * head_dim_);
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index head_dim_ = 0;
  Index stride_ = 0;
  Index groups_ = 0;
  float* plain_ = nullptr;  // sums of what is not rotated [rows, stride]
  ChannelKeyScores channel_keys_;
  TokenKeyScores token_keys_;
  alignas(64) float scores_[max_rows][max_block];
  alignas(64) float tokens_[chunk * simd::max_head_dim];
  alignas(64) float table_[2 * max_groups * max_block];
  alignas(64) std::uint8_t value_operands8_[max_groups * simd::max_heads * max_block];
  alignas(64) std::int16_t value_operands16_[max_groups * simd::max_heads * max_length];
  simd::Folded value_folded_[max_groups * simd::max_heads];
  float offsets_[max_rows * max_groups];  // per row and value group: what codes do not enter
  alignas(64) float plain_sums_[max_rows * simd::max_head_dim];
};

}  // namespace squat
