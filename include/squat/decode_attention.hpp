// Attention of few query rows: fused over packed codes, spread over heads and token ranges.
#pragma once

#include <memory>
#include <squat/executor.hpp>
#include <squat/fused_attention.hpp>
#include <squat/merged_attention.hpp>
#include <squat/query_rows.hpp>

namespace squat {

/// Causal attention as attend_exact computes it, but straight over the packed codes. Work is cut
/// into tasks, one a kv head and range of `segment_tokens` tokens, merged in the order of tokens:
/// the result does not depend on who runs them. Needs rows * heads_per_kv <=
/// FusedAttention::max_rows.
template <class Scalar>
class DecodeAttention {
 public:
  using Fused = FusedAttention<Scalar>;
  using Layer = LayerCache<Scalar>;

  static void run(const Layer& layer, const ModelShape& shape, const QueryRows<Scalar>& rows,
                  MutableMatrixView<Scalar>& out, float* log_sum_exp, Executor& executor) {
    // Memory of a thread is kept from call to call, so that only the first one allocates.
    // The reference is what tasks on other threads capture; the variable itself would be theirs.
    static thread_local DecodeAttention own;
    DecodeAttention& attention = own;
    attention.prepare(layer, shape, rows);
    const std::function<void(Index)> task = [&](Index i) { attention.run_task(layer, i); };
    // Errors in the choice of kernels belong to the caller's thread.
    simd::vector_kernels();
    simd::dot_kernels(2);
    simd::encode_kernels();
    executor.run(attention.tasks(), std::ref(task));
    attention.merge(layer, rows, out, log_sum_exp);
  }

 private:
  static constexpr Index segment_tokens = 2048;

  Index tasks() const { return kv_heads_ * segments(); }
  Index segments() const { return static_cast<Index>(segments_.size()); }

  void prepare(const Layer& layer, const ModelShape& shape, const QueryRows<Scalar>& rows) {
    const MatrixView<Scalar>& queries = rows.queries;
    kv_heads_ = shape.kv_heads;
    heads_ = shape.heads_per_kv();
    head_dim_ = shape.head_dim;
    stride_ = round_up(head_dim_, CodeTile<2>::lanes);
    rows_ = queries.rows() * heads_;

    segments_.clear();
    const Index blocks = static_cast<Index>(layer.rows().size());
    const Index segment_rows = segment_tokens / layer.value_block().tokens();
    const auto [begin, first_token] = layer.place(layer.seen(rows.position(0)).begin);
    Index token = first_token;
    for (Index row = begin; row == begin || row < blocks; row += segment_rows) {
      const Index last = std::min(row + segment_rows, blocks);
      segments_.push_back({row, last, token, row == begin, last == blocks});
      for (Index r = row; r < last; ++r) token += layer.rows()[static_cast<std::size_t>(r)].tokens;
    }

    const double scale = shape.softmax_scale > 0 ? shape.softmax_scale
                                                 : 1 / std::sqrt(static_cast<double>(head_dim_));
    queries_.resize(static_cast<std::size_t>(kv_heads_ * rows_ * head_dim_));
    seen_.resize(static_cast<std::size_t>(rows_));
    float* query = queries_.data();
    for (Index kv_head = 0; kv_head < kv_heads_; ++kv_head)
      for (Index i = 0; i < queries.rows(); ++i)
        for (Index c = 0; c < heads_ * head_dim_; ++c)
          *query++ =
              static_cast<float>(scale * static_cast<double>(static_cast<ComputeType<Scalar>>(
                                             queries(i, kv_head * heads_ * head_dim_ + c))));
    for (Index i = 0; i < rows_; ++i)
      seen_[static_cast<std::size_t>(i)] = layer.seen(rows.position(i / heads_));
    partials_.resize(static_cast<std::size_t>(tasks() * rows_ * (stride_ + 2)));
  }

  PartialAttention partial(Index task) {
    float* begin = partials_.data() + task * rows_ * (stride_ + 2);
    return {begin, begin + rows_ * stride_, begin + rows_ * (stride_ + 1)};
  }

  void run_task(const Layer& layer, Index task) {
    static thread_local std::unique_ptr<Fused> fused = std::make_unique<Fused>();
    const Index head = task / segments(), segment = task % segments();
    fused->run(layer, head, segments_[static_cast<std::size_t>(segment)],
               queries_.data() + head * rows_ * head_dim_, seen_.data(), rows_, stride_,
               partial(task));
  }

  void merge(const Layer& layer, const QueryRows<Scalar>& rows, MutableMatrixView<Scalar>& out,
             float* log_sum_exp) {
    for (Index kv_head = 0; kv_head < kv_heads_; ++kv_head)
      for (Index i = 0; i < rows_; ++i) {
        const Index token = i / heads_, query_head = kv_head * heads_ + i % heads_;
        Scalar* result = out.row(token).data() + query_head * head_dim_;
        const Index first = kv_head * segments();
        SoftmaxSum<float> total;
        merged_.assign(static_cast<std::size_t>(head_dim_), 0.0f);
        if (!rows.is_padding(layer, token))
          for (Index s = 0; s < segments(); ++s) {
            const PartialAttention part = partial(first + s);
            total.add({part.highest[i], part.sum[i]}, part.sum_values + i * stride_, head_dim_,
                      merged_.data());
          }
        total.write(merged_.data(), head_dim_, result);
        if (log_sum_exp != nullptr)
          log_sum_exp[token * kv_heads_ * heads_ + query_head] = total.log_sum_exp();
      }
  }

  Index kv_heads_ = 0;
  Index heads_ = 0;  // query heads of a kv head
  Index head_dim_ = 0;
  Index stride_ = 0;  // of a row of partial sums
  Index rows_ = 0;    // query rows of a kv head: tokens times heads_
  std::vector<Segment> segments_;
  std::vector<float> queries_;    // [kv_heads, rows, head_dim], times the softmax scale
  std::vector<TokenRange> seen_;  // [rows]
  std::vector<float> partials_;   // [tasks] of PartialAttention
  std::vector<float> merged_;
};

}  // namespace squat
