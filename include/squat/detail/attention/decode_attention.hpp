// Attention of few query rows: fused over packed codes, spread over heads and token ranges.
#pragma once

#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/attention/segment_partials.hpp>
#include <squat/detail/attention/workspace.hpp>
#include <squat/executor.hpp>

namespace squat::detail {

/// Attention as TiledAttention computes it, but of few rows and straight over the packed codes.
/// Work is cut into tasks, one a kv head and segment. Needs rows * heads_per_kv <=
/// FusedAttention::max_rows.
template <class Scalar>
class DecodeAttention {
 public:
  /// All outlive it.
  DecodeAttention(const QueryRows<Scalar>& rows, MutableMatrixView<Scalar>& out, float* log_sum_exp,
                  SequenceMemory& memory, TaskMemory<Scalar>& scratch)
      : query_rows_(rows),
        out_(out),
        log_sum_exp_(log_sum_exp),
        memory_(memory),
        scratch_(scratch),
        partials_(rows, find_segments(), round_up(rows.shape.value_width(), CodeTile<2>::lanes)) {
    copy_queries(rows.shape.scale());
    memory_.look(rows);
    common_ = seen_by_all(memory_.sights.data(), partials_.rows());
    memory_.reserve(partials_.numbers(), rows.shape.value_width());
  }

  Index tasks() const { return query_rows_.shape.kv_heads * partials_.segments(); }

  /// Makes room for so many tasks at the same time.
  void reserve(Index at_once) { scratch_.fused.reserve(at_once); }

  void run_task(Index task) const noexcept {
    const Index head = task / partials_.segments(), segment = task % partials_.segments();
    const Index rows = partials_.rows();
    const auto fused = scratch_.fused.borrow();
    fused->run(query_rows_,
               {head, memory_.queries.data() + head * rows * query_rows_.shape.head_dim,
                memory_.sights.data(), common_, rows},
               memory_.segments[at(segment)], partials_.stride(),
               partials_.of(memory_.partials.data(), head, segment));
  }

  /// Writes the result, once all tasks have run.
  void finish() const {
    partials_.write(memory_.partials.data(), memory_.merged.data(), out_, log_sum_exp_);
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  /// Fills memory_.segments; returns how many there are.
  Index find_segments() {
    memory_.segments.clear();
    for_segments(query_rows_.layer, query_rows_.visible_to_any(0, query_rows_.count()),
                 [&](const Segment& segment) { memory_.segments.push_back(segment); });
    return static_cast<Index>(memory_.segments.size());
  }

  void copy_queries(double scale) {
    const LayerShape& shape = query_rows_.shape;
    const Index width = shape.heads_per_kv() * shape.head_dim;
    memory_.queries.resize(at(shape.kv_heads * query_rows_.count() * width));
    float* query = memory_.queries.data();
    for (Index kv_head = 0; kv_head < shape.kv_heads; ++kv_head)
      for (Index i = 0; i < query_rows_.count(); ++i) {
        const Scalar* const row = query_rows_.queries.row(i).data() + kv_head * width;
        using Real = ComputeType<Scalar>;
        using Row = Eigen::Array<Scalar, Eigen::Dynamic, 1>;
        Eigen::Map<Eigen::ArrayXf>(query, width) =
            (static_cast<Real>(scale) * Eigen::Map<const Row>(row, width).template cast<Real>())
                .template cast<float>();
        query += width;
      }
  }

  const QueryRows<Scalar>& query_rows_;
  MutableMatrixView<Scalar>& out_;
  float* log_sum_exp_;  // or null
  SequenceMemory& memory_;
  TaskMemory<Scalar>& scratch_;
  SegmentPartials<Scalar> partials_;
  TokenRange common_;  // what all rows see
};

}  // namespace squat::detail
