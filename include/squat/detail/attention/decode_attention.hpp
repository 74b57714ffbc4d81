// Attention of few query rows: fused over packed codes, spread over heads and token ranges.
#pragma once

#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/attention/workspace.hpp>
#include <squat/executor.hpp>
#include <squat/merged_attention.hpp>

namespace squat::detail {

/// Attention as TiledAttention computes it, but of few rows and straight over the packed codes.
/// Work is cut into tasks, one a kv head and segment, merged in the order of tokens: the result
/// does not depend on who runs them. Needs rows * heads_per_kv <= FusedAttention::max_rows.
template <class Scalar>
class DecodeAttention {
 public:
  /// All outlive it.
  DecodeAttention(const QueryRows<Scalar>& rows, MutableMatrixView<Scalar>& out, float* log_sum_exp,
                  SequenceMemory& memory, TaskMemory<Scalar>& scratch)
      : layer_(rows.layer),
        query_rows_(rows),
        out_(out),
        log_sum_exp_(log_sum_exp),
        memory_(memory),
        scratch_(scratch),
        kv_heads_(rows.shape.kv_heads),
        heads_(rows.shape.heads_per_kv()),
        head_dim_(rows.shape.head_dim),
        value_dim_(rows.shape.value_width()),
        stride_(round_up(value_dim_, CodeTile<2>::lanes)),
        rows_(rows.count() * heads_) {
    memory_.segments.clear();
    for_segments(layer_, rows.visible_to_any(0, rows.count()),
                 [&](const Segment& segment) { memory_.segments.push_back(segment); });
    copy_queries(rows.shape.scale());
    memory_.look(rows);
    common_ = seen_by_all(memory_.sights.data(), rows_);
    memory_.partials.resize(at(tasks() * rows_ * (stride_ + 2)));
    memory_.merged.resize(at(value_dim_));
  }

  Index tasks() const { return kv_heads_ * segments(); }

  /// Makes room for so many tasks at the same time.
  void reserve(Index at_once) { scratch_.fused.reserve(at_once); }

  void run_task(Index task) const noexcept {
    const Index head = task / segments(), segment = task % segments();
    const auto fused = scratch_.fused.borrow();
    fused->run(query_rows_,
               {head, memory_.queries.data() + head * rows_ * head_dim_, memory_.sights.data(),
                common_, rows_},
               memory_.segments[at(segment)], stride_, partial(task));
  }

  /// Writes the result, once all tasks have run.
  void finish() const {
    for (Index kv_head = 0; kv_head < kv_heads_; ++kv_head)
      for (Index i = 0; i < rows_; ++i) {
        const Index token = i / heads_, query_head = kv_head * heads_ + i % heads_;
        Scalar* result = out_.row(token).data() + query_head * value_dim_;
        const Index first = kv_head * segments();
        SoftmaxSum<float> total;
        std::fill_n(memory_.merged.data(), value_dim_, 0.0f);
        if (!query_rows_.is_padding(token)) {
          for (Index s = 0; s < segments(); ++s) {
            const PartialAttention part = partial(first + s);
            total.add({part.max[i], part.sum[i]}, part.sum_values + i * stride_, value_dim_,
                      memory_.merged.data());
          }
          if (query_rows_.has_sink_logit(token))
            total.add_sink(static_cast<float>(query_rows_.shape.sink_logits[at(query_head)]),
                           value_dim_, memory_.merged.data());
        }
        total.write(memory_.merged.data(), value_dim_, result);
        if (log_sum_exp_ != nullptr)
          log_sum_exp_[token * kv_heads_ * heads_ + query_head] = total.log_sum_exp();
      }
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  Index segments() const { return static_cast<Index>(memory_.segments.size()); }

  void copy_queries(double scale) {
    memory_.queries.resize(at(kv_heads_ * rows_ * head_dim_));
    float* query = memory_.queries.data();
    for (Index kv_head = 0; kv_head < kv_heads_; ++kv_head)
      for (Index i = 0; i < query_rows_.count(); ++i)
        for (Index c = 0; c < heads_ * head_dim_; ++c)
          *query++ = static_cast<float>(
              scale * static_cast<double>(static_cast<ComputeType<Scalar>>(
                          query_rows_.queries(i, kv_head * heads_ * head_dim_ + c))));
  }

  PartialAttention partial(Index task) const {
    float* begin = memory_.partials.data() + task * rows_ * (stride_ + 2);
    return {begin, begin + rows_ * stride_, begin + rows_ * (stride_ + 1)};
  }

  const LayerView<Scalar>& layer_;
  const QueryRows<Scalar>& query_rows_;
  MutableMatrixView<Scalar>& out_;
  float* log_sum_exp_;  // or null
  SequenceMemory& memory_;
  TaskMemory<Scalar>& scratch_;
  Index kv_heads_;
  Index heads_;  // query heads of a kv head
  Index head_dim_;
  Index value_dim_;
  TokenRange common_;  // what all rows see
  Index stride_;       // of a row of partial sums
  Index rows_;         // query rows of a kv head: tokens times heads_
};

}  // namespace squat::detail
