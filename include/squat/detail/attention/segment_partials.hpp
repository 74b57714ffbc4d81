// Attention of query rows over segments of the tokens, to be merged.
#pragma once

#include <squat/detail/attention/partial_attention.hpp>
#include <squat/detail/attention/query_rows.hpp>
#include <squat/merged_attention.hpp>

namespace squat::detail {

/// Partial attention of all rows of a call by kv head and segment, and how it becomes the result.
/// Merged in the order of tokens: the result does not depend on who computed what.
template <class Scalar>
class SegmentPartials {
 public:
  /// Of `segments` segments; `rows` outlives it. Rows of partial sums are `stride` numbers apart.
  SegmentPartials(const QueryRows<Scalar>& rows, Index segments, Index stride)
      : rows_(&rows), segments_(segments), stride_(stride) {}

  Index segments() const { return segments_; }
  Index stride() const { return stride_; }
  /// Query rows of a kv head: tokens times query heads.
  Index rows() const { return rows_->count() * rows_->shape.heads_per_kv(); }
  Index numbers() const { return rows_->shape.kv_heads * segments_ * rows() * (stride_ + 2); }

  /// In `memory` [numbers()].
  PartialAttention of(float* memory, Index kv_head, Index segment) const {
    float* const begin = memory + (kv_head * segments_ + segment) * rows() * (stride_ + 2);
    return {begin, begin + rows() * stride_, begin + rows() * (stride_ + 1)};
  }

  /// Writes out [rows, query_heads * value_dim] and, unless it is null, log_sum_exp
  /// [rows, query_heads]; `merged` is room for [value_dim].
  void write(float* memory, float* merged, MutableMatrixView<Scalar>& out,
             float* log_sum_exp) const {
    const LayerShape& shape = rows_->shape;
    const Index heads = shape.heads_per_kv(), value_dim = shape.value_width();
    for (Index kv_head = 0; kv_head < shape.kv_heads; ++kv_head)
      for (Index i = 0; i < rows(); ++i) {
        const Index token = i / heads, query_head = kv_head * heads + i % heads;
        SoftmaxSum<float> total;
        std::fill_n(merged, value_dim, 0.0f);
        if (!rows_->is_padding(token)) {
          for (Index s = 0; s < segments_; ++s) {
            const PartialAttention part = of(memory, kv_head, s);
            total.add({part.max[i], part.sum[i]}, part.sum_values + i * stride_, value_dim, merged);
          }
          if (rows_->has_sink_logit(token))
            total.add_sink(
                static_cast<float>(shape.sink_logits[static_cast<std::size_t>(query_head)]),
                value_dim, merged);
        }
        total.write(merged, value_dim, out.row(token).data() + query_head * value_dim);
        if (log_sum_exp != nullptr)
          log_sum_exp[token * shape.query_heads + query_head] = total.log_sum_exp();
      }
  }

 private:
  const QueryRows<Scalar>* rows_;
  Index segments_;
  Index stride_;
};

}  // namespace squat::detail
