// Attention of many query rows, a tile of them at a time.
#pragma once

#include <optional>
#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/attention/score_rule.hpp>
#include <squat/detail/attention/segment_partials.hpp>
#include <squat/detail/attention/workspace.hpp>
#include <squat/detail/math/rotary.hpp>
#include <squat/executor.hpp>

namespace squat::detail {

/// What LayerShape says, in the cache's compute type, into `out` and, unless it is null,
/// `log_sum_exp`. A row sees what QueryRows says, and no padding; the row of a padding token is
/// zero, and so is one that sees nothing. out: [rows, query_heads * value_dim].
///
/// Tokens in full precision are multiplied a block at a time with all rows of a tile. Packed ones
/// are dequantized for that, or else taken straight over their codes, as many rows at once as
/// FusedAttention takes. Codes cannot turn: where the layer has a rope, queries and dequantized
/// keys turn to their positions. Where there is one tile alone, and nothing is taken over codes,
/// the tokens are cut into segments for threads to share.
template <class Scalar>
class TiledAttention {
 public:
  using Real = ComputeType<Scalar>;

  /// All outlive it.
  TiledAttention(const QueryRows<Scalar>& rows, bool over_codes, MutableMatrixView<Scalar>& out,
                 float* log_sum_exp, SequenceMemory& memory, TaskMemory<Scalar>& scratch)
      : layer_(rows.layer),
        shape_(rows.shape),
        rope_(rows.layer.format.rope.get()),
        rows_(rows),
        over_codes_(over_codes),
        out_(out),
        log_sum_exp_(log_sum_exp),
        memory_(memory),
        scratch_(scratch),
        head_dim_(shape_.head_dim),
        value_dim_(shape_.value_width()),
        heads_(shape_.heads_per_kv()),
        partials_(rows, 1, shape_.value_width()) {
    // As many rows as the second-level cache takes gladly. Where nothing is dequantized for a tile,
    // few rows are cut too, for threads to share. Folding takes four rows at once: which ones must
    // not depend on tiles.
    tile_rows_ = std::max(std::max(Index{24576} / head_dim_, Index{256}) / heads_, Index{1});
    if (over_codes_)
      tile_rows_ = std::min(
          round_up(tile_rows_, simd::max_heads),
          round_up(std::max((rows_.count() + 3) / 4, Fused::max_rows / heads_), simd::max_heads));
    tile_rows_ = std::min(tile_rows_, rows_.count());
    tiles_ = (rows_.count() + tile_rows_ - 1) / tile_rows_;
    if (over_codes_) memory_.look(rows_);
    if (over_codes_ || tiles_ > 1 || !std::is_same_v<Real, float>) return;
    seen_ = rows_.visible_to_any(0, rows_.count());
    const Index segments = (seen_.end - seen_.begin + segment_tokens - 1) / segment_tokens;
    if (segments <= 1) return;
    partials_ = SegmentPartials<Scalar>(rows_, segments, value_dim_);
    memory_.reserve(partials_.numbers(), value_dim_);
  }

  Index kv_heads() const { return shape_.kv_heads; }
  Index tasks() const { return shape_.kv_heads * tiles_ * partials_.segments(); }

  /// Makes room for so many tasks at the same time.
  void reserve(Index at_once) {
    scratch_.tiles.reserve(at_once);
    scratch_.tiles.for_each([&](auto& tile) {
      tile.softmax.reserve(tile_rows_ * heads_, head_dim_, value_dim_);
      tile.tokens.reserve(layer_.format);
      const std::size_t numbers = at(Fused::max_rows * (stride() + 2));
      if (over_codes_ && tile.partial.size() < numbers) tile.partial.resize(numbers);
    });
    if (over_codes_) scratch_.fused.reserve(at_once);
  }

  void run_task(Index task) const noexcept {
    const auto tile = scratch_.tiles.borrow();
    const Index segments = partials_.segments(), segment = task % segments;
    const Index kv_head = task / segments % shape_.kv_heads;
    // Last rows first: they see most, and threads that run out of tasks wait for short ones.
    const Index begin = (tiles_ - 1 - task / (segments * shape_.kv_heads)) * tile_rows_;
    const Index end = std::min(begin + tile_rows_, rows_.count());
    start(kv_head, begin, end, *tile);
    TokenRange part = all_tokens();
    if constexpr (std::is_same_v<Real, float>)
      if (over_codes_) {
        absorb_codes(kv_head, begin, end, *tile);
        part.begin = layer_.residual_begin;
      }
    if (segments > 1) {
      part.begin = seen_.begin + segment * segment_tokens;
      part.end = part.begin + segment_tokens;
    }
    if (segment == 0) for_sinks(kv_head, begin, end, *tile, absorb(*tile));
    for_tokens(kv_head, begin, end, part, *tile, absorb(*tile));
    if (segments == 1) return write(kv_head, begin, end, tile->softmax);
    tile->softmax.write(partials_.of(memory_.partials.data(), kv_head, segment),
                        partials_.stride());
  }

  /// Writes options.received of a kv head, once the log-sum-exp of all rows is known.
  void weigh(Index kv_head) const noexcept {
    float* const received = rows_.options.received + kv_head * layer_.size();
    std::fill_n(received, layer_.size(), 0.0f);
    const auto tile = scratch_.tiles.borrow();
    for (Index begin = 0; begin < rows_.count(); begin += tile_rows_) {
      const Index end = std::min(begin + tile_rows_, rows_.count());
      start(kv_head, begin, end, *tile);
      Real* const sums = tile->softmax.sums();
      for (Index i = 0; i < (end - begin) * heads_; ++i)
        sums[i] = static_cast<Real>(log_sum_exp_[(begin + i / heads_) * shape_.query_heads +
                                                 kv_head * heads_ + i % heads_]);
      const auto weigh = [&](const auto& tokens, const auto& adjust) {
        tile->softmax.weigh(tokens, adjust, sums, received + tokens.first);
      };
      for_sinks(kv_head, begin, end, *tile, weigh);
      for_tokens(kv_head, begin, end, all_tokens(), *tile, weigh);
    }
  }

  /// Writes the result, once all tasks have run.
  void finish() const {
    if (partials_.segments() > 1)
      partials_.write(memory_.partials.data(), memory_.merged.data(), out_, log_sum_exp_);
  }

 private:
  using Fused = FusedAttention<Scalar>;
  using Tile = typename TaskMemory<Scalar>::Tile;

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  Index stride() const { return round_up(value_dim_, CodeTile<2>::lanes); }

  /// Begins with rows [begin, end).
  void start(Index kv_head, Index begin, Index end, Tile& tile) const {
    tile.softmax.start((end - begin) * heads_, head_dim_, value_dim_);
    copy_queries(kv_head, begin, end, tile.softmax.queries().data());
    if (rope_ != nullptr)
      RopeWalk<Real>(*rope_).rotate(rows_.position(begin), tile.softmax.queries().data(),
                                    end - begin, heads_ * head_dim_);
  }

  static constexpr Index segment_tokens = 1024;
  static TokenRange all_tokens() { return {0, std::numeric_limits<Index>::max()}; }

  static auto absorb(Tile& tile) {
    return [&](const auto& tokens, const auto& adjust) { tile.softmax.absorb(tokens, adjust); };
  }

  /// Calls use(tokens, adjust), as OnlineSoftmax takes them, for the tokens of `part` that rows
  /// [begin, end) see where they stand.
  template <class Use>
  void for_tokens(Index kv_head, Index begin, Index end, const TokenRange& part, Tile& tile,
                  const Use& use) const {
    const auto in_part = [&](const TokenRange& range) {
      return TokenRange{std::max(range.begin, part.begin), std::min(range.end, part.end)};
    };
    show(begin, end, tile, [&](Index i) { return in_part(rows_.visible(i)); });
    const TokenRange visible = in_part(rows_.visible_to_any(begin, end));
    if (!visible.empty())
      for_dequantized_tokens(layer_, kv_head, visible, tile.tokens, visitor(kv_head, begin, use));
  }

  /// The same for attention sinks that rows see beside those.
  template <class Use>
  void for_sinks(Index kv_head, Index begin, Index end, Tile& tile, const Use& use) const {
    Index sinks = 0;
    for (Index i = begin; i < end; ++i) sinks = std::max(sinks, rows_.sinks(i));
    if (sinks == 0) return;
    show(begin, end, tile, [&](Index i) {
      const Index seen = rows_.sinks(i);
      return TokenRange{0, seen > 0 ? layer_.full_precision.position(seen - 1) + 1 : 0};
    });
    for_full_precision_tokens(layer_, kv_head, sinks, tile.tokens, visitor(kv_head, begin, use));
  }

  /// Tells the softmax of a tile what rows [begin, end) see of tokens that come next: range(i).
  template <class Range>
  void show(Index begin, Index end, Tile& tile, const Range& range) const {
    for (Index i = begin; i < end; ++i)
      std::fill_n(tile.softmax.visible() + (i - begin) * heads_, heads_, range(i));
  }

  /// Turns tokens to their positions, then calls use(tokens, adjust).
  template <class Use>
  auto visitor(Index kv_head, Index begin, const Use& use) const {
    std::optional<RopeWalk<Real>> walk;
    if (rope_ != nullptr) walk.emplace(*rope_);
    return [this, kv_head, begin, &use, walk](DequantizedTokens<Real>& tokens) mutable {
      if (walk) walk->rotate(tokens.first, tokens.keys.data(), tokens.count, head_dim_);
      use(tokens, [&](const auto& run, Index i, Real* scores) {
        adjust(kv_head * heads_ + i % heads_, begin + i / heads_, run, scores);
      });
    };
  }

  /// The packed tokens that rows [begin, end) see. A segment of them stays in the second-level
  /// cache for all rows.
  void absorb_codes(Index kv_head, Index begin, Index end, Tile& tile) const noexcept {
    const auto fused = scratch_.fused.borrow();
    for_segments(layer_, rows_.visible_to_any(begin, end), [&](Segment segment) {
      // Sinks and the residual are not its affair.
      segment.is_first = false;
      segment.residual = {};
      const Index rows = (end - begin) * heads_;
      for (Index first = 0; first < rows; first += Fused::max_rows) {
        const Index count = std::min(Fused::max_rows, rows - first);
        const RowSight* sights = memory_.sights.data() + begin * heads_ + first;
        float* const sums = tile.partial.data();
        const PartialAttention partial{sums, sums + count * stride(),
                                       sums + count * (stride() + 1)};
        fused->run(rows_,
                   {kv_head, tile.softmax.queries().data() + first * head_dim_, sights,
                    seen_by_all(sights, count), count},
                   segment, stride(), partial);
        tile.softmax.absorb(partial, first, count, stride());
      }
    });
  }

  /// Makes scores of the products of `query_head` of `row` with tokens.
  void adjust(Index query_head, Index row, const DequantizedTokens<Real>& tokens,
              Real* scores) const {
    const ScoreRule rule(shape_);
    const auto position = [&](Index t) { return tokens.first + t; };
    if (!rule.changes_nothing())
      rule.apply(query_head, rows_.position(row), tokens.count, position, scores);
    if (rows_.options.tree.empty()) return;
    for (Index t = 0; t < tokens.count; ++t)
      if (rows_.is_hidden(row, position(t))) scores[t] = -std::numeric_limits<Real>::infinity();
  }

  void copy_queries(Index kv_head, Index begin, Index end, Real* target) const {
    const Real scale = static_cast<Real>(shape_.scale());
    for (Index i = begin; i < end; ++i) {
      const Scalar* query = rows_.queries.row(i).data() + kv_head * heads_ * head_dim_;
      for (Index c = 0; c < heads_ * head_dim_; ++c)
        *target++ = scale * static_cast<Real>(query[c]);
    }
  }

  void write(Index kv_head, Index begin, Index end, const OnlineSoftmax<Real>& softmax) const {
    Index row = 0;
    for (Index i = begin; i < end; ++i)
      for (Index head = kv_head * heads_; head < (kv_head + 1) * heads_; ++head, ++row) {
        Scalar* result = out_.row(i).data() + head * value_dim_;
        const bool padding = rows_.is_padding(i);
        const Real sink = rows_.has_sink_logit(i) ? static_cast<Real>(shape_.sink_logits[at(head)])
                                                  : -std::numeric_limits<Real>::infinity();
        const Real sum = softmax.finish(row, sink, result);
        if (padding) std::fill_n(result, value_dim_, Scalar(0));
        if (log_sum_exp_ != nullptr)
          log_sum_exp_[i * shape_.query_heads + head] =
              padding ? -std::numeric_limits<float>::infinity() : static_cast<float>(sum);
      }
  }

  const LayerView<Scalar>& layer_;
  const LayerShape& shape_;
  const RopeTable* rope_;
  const QueryRows<Scalar>& rows_;
  bool over_codes_;
  MutableMatrixView<Scalar>& out_;
  float* log_sum_exp_;
  SequenceMemory& memory_;
  TaskMemory<Scalar>& scratch_;
  Index head_dim_;
  Index value_dim_;
  Index heads_;  // query heads of a kv head
  Index tile_rows_ = 0;
  Index tiles_ = 0;
  SegmentPartials<Scalar> partials_;
  TokenRange seen_{};  // by any row
};

}  // namespace squat::detail
