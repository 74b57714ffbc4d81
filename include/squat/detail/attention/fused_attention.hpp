// Decode attention straight over packed codes.
#pragma once

#include <cmath>
#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/attention/score_rule.hpp>
#include <squat/detail/attention/token_sources.hpp>

namespace squat::detail {

/// A part of what a layer holds: some blocks and, in the last part, tokens of the residual.
struct Segment {
  Index first_block;
  Index last_block;
  bool is_first;        ///< brings attention sinks beyond the window
  TokenRange residual;  ///< positions
};

/// Calls visit(segment) for runs of blocks of `layer`, about 2048 tokens each, that together hold
/// the packed tokens of `visible`. There is one at least, maybe empty.
template <class Scalar, class Visit>
void for_segments(const LayerView<Scalar>& layer, const TokenRange& visible, const Visit& visit) {
  constexpr Index segment_tokens = 2048;
  const Index first_block = layer.block_at(visible.begin);
  Index blocks = first_block;  // behind the last one that is visible
  const auto is_visible = [&](const TokenBlock& block) { return block.first() < visible.end; };
  while (blocks < static_cast<Index>(layer.blocks.size()) &&
         is_visible(layer.blocks[static_cast<std::size_t>(blocks)]))
    ++blocks;
  const TokenRange residual{std::max(layer.residual_begin, visible.begin),
                            std::min(layer.size(), visible.end)};
  const Index segment_blocks = segment_tokens / layer.value_layout().tokens();
  for (Index block = first_block; block == first_block || block < blocks; block += segment_blocks) {
    const Index last = std::min(block + segment_blocks, blocks);
    visit(Segment{block, last, block == first_block, last == blocks ? residual : TokenRange{}});
  }
}

/// Computes partial attention from packed blocks: key scales are folded into the query once a block
/// (or weigh the products of a token), value scales into the probabilities once a block and value
/// group, so that all work per code is an integer dot product. One object serves one thread.
template <class Scalar>
class FusedAttention {
 public:
  /// Query rows (tokens times query heads of a kv head) that a call can take.
  static constexpr Index max_rows = KeyScores::max_rows;

  /// Attention of some rows of `call` over a segment. The rows of result.sum_values are `stride`
  /// apart, at least value_dim rounded up to 16.
  void run(const QueryRows<Scalar>& call, const HeadRows& head, const Segment& segment,
           Index stride, const PartialAttention& result) {
    const LayerView<Scalar>& layer = call.layer;
    const ValueRecordLayout& values = layer.value_layout();
    call_ = &call;
    head_ = &head;
    rows_ = head.rows;
    scratch_.stride = stride;
    scratch_.packed = result.sum_values;
    // What is not rotated is added after the rest was rotated back.
    scratch_.plain = values.is_rotated() ? plain_sums_ : result.sum_values;
    scratch_.values.start(values, rows_);
    std::fill_n(result.sum_values, rows_ * stride, 0.0f);
    std::fill_n(scratch_.plain, rows_ * stride, 0.0f);
    std::fill_n(result.sum, rows_, 0.0f);
    std::fill_n(result.max, rows_, minus_infinity);

    Index sinks = 0;
    for (Index i = 0; segment.is_first && i < rows_; ++i)
      sinks = std::max(sinks, head.sights[i].sinks);
    for (Index first = 0; first < sinks; first += PlainRows<Scalar>::chunk)
      take(SinkSource<Scalar>{scratch_, layer, head, first, sinks}, result);
    prepared_for_ = nullptr;
    for (Index b = segment.first_block; b < segment.last_block; ++b) {
      const TokenBlock* const block = layer.blocks.data() + b;
      prepare(*block);
      take(BlockSource<Scalar>{scratch_, layer, head, *block,
                               b + 1 < segment.last_block ? block + 1 : nullptr},
           result);
    }
    for (Index token = segment.residual.begin; token < segment.residual.end;
         token += PlainRows<Scalar>::chunk)
      take(ResidualSource<Scalar>{scratch_, layer, head, token}, result);
    scratch_.values.finish_mean(values, scratch_.plain, stride);
    for (Index i = 0; i < rows_; ++i) {
      float* sums = result.sum_values + i * stride;
      scratch_.values.finish(values, i, sums);
      if (scratch_.plain == result.sum_values) continue;
      Row(sums, values.head_dim()) += Row(scratch_.plain + i * stride, values.head_dim());
    }
  }

 private:
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  /// Whose loops are vectors, however a program is compiled.
  using Row = Eigen::Map<Eigen::ArrayXf>;

  /// For the keys of `block`: where they moved the queries turn the other way.
  void prepare(const TokenBlock& block) {
    const KeyRecordLayout& keys = block.key_layout(head_->head);
    if (&keys == prepared_for_ && block.turn == prepared_turn_) return;
    prepared_for_ = &keys;
    prepared_turn_ = block.turn;
    if (block.turn == 0) return scratch_.keys.prepare(keys, head_->queries, rows_);
    const Index head_dim = call_->layer.format.head_dim();
    static_assert(max_rows <= PlainRows<Scalar>::chunk, "turned queries lie where rows do");
    float* const turned = scratch_.rows.room();
    std::copy_n(head_->queries, rows_ * head_dim, turned);
    RopeWalk<float>(*call_->layer.format.applied_rope)
        .rotate_all(-block.turn, turned, rows_, head_dim);
    scratch_.keys.prepare(keys, turned, rows_);
  }

  /// One step of an online softmax, over the tokens of `source`.
  template <class Source>
  void take(const Source& source, const PartialAttention& result) {
    source.score(scores_);
    if (!rule().changes_nothing()) apply_rule(source);
    mask_invisible(source);
    if (source.has_padding) mask_padding(source);
    // Waits for nothing, and so fills what update_max() waits for.
    source.read_values();
    update_max(source.slots, result);
    source.add_values(scores_, block_sums_);
  }

  ScoreRule rule() const { return ScoreRule(call_->shape); }

  template <class Source>
  void apply_rule(const Source& source) {
    const Index first_head = head_->head * call_->shape.heads_per_kv();
    for (Index i = 0; i < rows_; ++i)
      rule().apply(
          first_head + head_->sights[i].head, head_->sights[i].position, source.count,
          [&](Index t) { return source.position(t); }, scores_[i]);
  }

  /// Minus infinity for tokens that a row does not see, and for slots that are no tokens.
  template <class Source>
  void mask_invisible(const Source& source) {
    if (source.count < source.slots || !source.all_see_all())
      for (Index i = 0; i < rows_; ++i) {
        const TokenRange range = source.visible(head_->sights[i]);
        std::fill(scores_[i], scores_[i] + range.begin, minus_infinity);
        std::fill(scores_[i] + range.end, scores_[i] + source.slots, minus_infinity);
      }
    if (call_->options.tree.empty()) return;
    for (Index t = 0; t < source.count; ++t)
      for (Index i = 0; i < rows_; ++i)
        if (call_->is_hidden(head_->sights[i].row, source.position(t)))
          scores_[i][t] = minus_infinity;
  }

  template <class Source>
  void mask_padding(const Source& source) {
    for (Index t = 0; t < source.count; ++t)
      if (!source.is_valid(t))
        for (Index i = 0; i < rows_; ++i) scores_[i][t] = minus_infinity;
  }

  /// Turns scores into exp(score - max), and rescales what was summed under a lower maximum.
  void update_max(Index slots, const PartialAttention& result) {
    float before[max_rows];
    std::copy_n(result.max, rows_, before);
    kernels_.exponentiate(scores_[0], simd::max_block, rows_, slots, result.max, block_sums_);
    const Index stride = scratch_.stride;
    for (Index i = 0; i < rows_; ++i) {
      if (result.max[i] != before[i] && !is_minus_infinity(before[i])) {
        const float rescale = std::exp(before[i] - result.max[i]);
        result.sum[i] *= rescale;
        Row(result.sum_values + i * stride, stride) *= rescale;
        if (scratch_.plain != result.sum_values)
          Row(scratch_.plain + i * stride, stride) *= rescale;
        scratch_.values.rescale(i, rescale);
      }
      result.sum[i] += block_sums_[i];
    }
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  const QueryRows<Scalar>* call_ = nullptr;
  const HeadRows* head_ = nullptr;
  Index rows_ = 0;
  SourceScratch<Scalar> scratch_;
  alignas(64) float scores_[max_rows][simd::max_block];
  float block_sums_[max_rows];  // of what update_max() made of the scores
  alignas(64) float plain_sums_[max_rows * max_head_dim];
  const KeyRecordLayout* prepared_for_ = nullptr;
  Index prepared_turn_ = 0;
};

}  // namespace squat::detail
