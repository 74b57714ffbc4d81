// Attention of many query rows, a tile of them at a time.
#pragma once

#include <optional>
#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/attention/score_rule.hpp>
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
/// keys turn to their positions.
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
        heads_(shape_.heads_per_kv()) {
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
  }

  Index kv_heads() const { return shape_.kv_heads; }
  Index tasks() const { return shape_.kv_heads * tiles_; }

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
    const Index kv_head = task / tiles_, begin = task % tiles_ * tile_rows_;
    const Index end = std::min(begin + tile_rows_, rows_.count());
    start(kv_head, begin, end, *tile);
    Index first = 0;
    if constexpr (std::is_same_v<Real, float>)
      if (over_codes_) {
        absorb_codes(kv_head, begin, end, *tile);
        first = layer_.residual_begin;
      }
    for_tokens(kv_head, begin, end, first, *tile, [&](const auto& tokens, const auto& adjust) {
      tile->softmax.absorb(tokens, adjust);
    });
    write(kv_head, begin, end, tile->softmax);
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
      for_tokens(kv_head, begin, end, 0, *tile, [&](const auto& tokens, const auto& adjust) {
        tile->softmax.weigh(tokens, adjust, sums, received + tokens.first);
      });
    }
  }

  void finish() const {}

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

  /// Calls use(tokens, adjust), as OnlineSoftmax takes them, for all tokens from `first` on that
  /// rows [begin, end) see, and for attention sinks.
  template <class Use>
  void for_tokens(Index kv_head, Index begin, Index end, Index first, Tile& tile,
                  const Use& use) const {
    std::optional<RopeWalk<Real>> walk;
    if (rope_ != nullptr) walk.emplace(*rope_);
    const auto visit = [&](DequantizedTokens<Real>& tokens) {
      if (walk) walk->rotate(tokens.first, tokens.keys.data(), tokens.count, head_dim_);
      use(tokens, [&](const auto& run, Index i, Real* scores) {
        adjust(kv_head * heads_ + i % heads_, begin + i / heads_, run, scores);
      });
    };
    const auto show = [&](const auto& range) {
      for (Index i = begin; i < end; ++i)
        std::fill_n(tile.softmax.visible() + (i - begin) * heads_, heads_, range(i));
    };
    Index sinks = 0;
    for (Index i = begin; i < end; ++i) sinks = std::max(sinks, rows_.sinks(i));
    if (sinks > 0) {
      show([&](Index i) {
        const Index seen = rows_.sinks(i);
        return TokenRange{0, seen > 0 ? layer_.full_precision.position(seen - 1) + 1 : 0};
      });
      for_full_precision_tokens(layer_, kv_head, sinks, tile.tokens, visit);
    }
    show([&](Index i) { return rows_.visible(i); });
    TokenRange visible = rows_.visible_to_any(begin, end);
    visible.begin = std::max(visible.begin, first);
    if (!visible.empty()) for_dequantized_tokens(layer_, kv_head, visible, tile.tokens, visit);
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
};

}  // namespace squat::detail
