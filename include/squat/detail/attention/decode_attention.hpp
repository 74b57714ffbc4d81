// Attention of few query rows: fused over packed codes, spread over heads and token ranges.
#pragma once

#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/attention/workspace.hpp>
#include <squat/executor.hpp>
#include <squat/merged_attention.hpp>

namespace squat::detail {

/// Causal attention as attend_dequantized computes it, but straight over the packed codes. Work is
/// cut into tasks, one a kv head and range of `segment_tokens` tokens, merged in the order of
/// tokens: the result does not depend on who runs them. Needs rows * heads_per_kv <=
/// FusedAttention::max_rows.
template <class Scalar>
class DecodeAttention {
 public:
  using Workspace = AttentionWorkspace<Scalar>;

  DecodeAttention(const LayerView<Scalar>& layer, const ModelShape& shape,
                  const QueryRows<Scalar>& rows, Workspace& workspace)
      : layer_(layer),
        query_rows_(rows),
        workspace_(workspace),
        kv_heads_(shape.kv_heads),
        heads_(shape.heads_per_kv()),
        head_dim_(shape.head_dim),
        stride_(round_up(head_dim_, CodeTile<2>::lanes)),
        rows_(rows.count() * heads_) {
    cut_segments();
    copy_queries(shape.softmax_scale > 0 ? shape.softmax_scale
                                         : 1 / std::sqrt(static_cast<double>(head_dim_)));
    workspace_.visible.resize(at(rows_));
    for (Index i = 0; i < rows_; ++i) workspace_.visible[at(i)] = rows.visible(i / heads_);
    workspace_.partials.resize(at(tasks() * rows_ * (stride_ + 2)));
    workspace_.merged.resize(at(head_dim_));
  }

  void run(MutableMatrixView<Scalar>& out, float* log_sum_exp, Executor& executor) {
    workspace_.fused.reserve(std::min(tasks(), std::max(executor.concurrency(), Index{1})));
    const std::function<void(Index)> task = [this](Index i) noexcept { run_task(i); };
    // Errors in the choice of kernels belong to the caller's thread.
    simd::vector_kernels();
    simd::dot_kernels(2);
    simd::matrix_kernels();
    executor.run(tasks(), task);
    merge(out, log_sum_exp);
  }

 private:
  static constexpr Index segment_tokens = 2048;

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  Index tasks() const { return kv_heads_ * segments(); }
  Index segments() const { return static_cast<Index>(workspace_.segments.size()); }

  void cut_segments() {
    workspace_.segments.clear();
    const Index blocks = static_cast<Index>(layer_.blocks.size());
    const Index segment_blocks = segment_tokens / layer_.value_layout().tokens();
    const auto [begin, first_token] = layer_.place(query_rows_.visible(0).begin);
    Index token = first_token;
    for (Index block = begin; block == begin || block < blocks; block += segment_blocks) {
      const Index last = std::min(block + segment_blocks, blocks);
      workspace_.segments.push_back({block, last, token, block == begin, last == blocks});
      for (Index b = block; b < last; ++b) token += layer_.blocks[at(b)].tokens;
    }
  }

  void copy_queries(double scale) {
    workspace_.queries.resize(at(kv_heads_ * rows_ * head_dim_));
    float* query = workspace_.queries.data();
    for (Index kv_head = 0; kv_head < kv_heads_; ++kv_head)
      for (Index i = 0; i < query_rows_.count(); ++i)
        for (Index c = 0; c < heads_ * head_dim_; ++c)
          *query++ = static_cast<float>(
              scale * static_cast<double>(static_cast<ComputeType<Scalar>>(
                          query_rows_.queries(i, kv_head * heads_ * head_dim_ + c))));
  }

  PartialAttention partial(Index task) const {
    float* begin = workspace_.partials.data() + task * rows_ * (stride_ + 2);
    return {begin, begin + rows_ * stride_, begin + rows_ * (stride_ + 1)};
  }

  void run_task(Index task) const noexcept {
    const Index head = task / segments(), segment = task % segments();
    const auto fused = workspace_.fused.borrow();
    fused->run(layer_,
               {head, workspace_.queries.data() + head * rows_ * head_dim_,
                workspace_.visible.data(), rows_},
               workspace_.segments[at(segment)], query_rows_.window > 0, stride_, partial(task));
  }

  void merge(MutableMatrixView<Scalar>& out, float* log_sum_exp) const {
    for (Index kv_head = 0; kv_head < kv_heads_; ++kv_head)
      for (Index i = 0; i < rows_; ++i) {
        const Index token = i / heads_, query_head = kv_head * heads_ + i % heads_;
        Scalar* result = out.row(token).data() + query_head * head_dim_;
        const Index first = kv_head * segments();
        SoftmaxSum<float> total;
        std::fill_n(workspace_.merged.data(), head_dim_, 0.0f);
        if (!query_rows_.is_padding(layer_, token))
          for (Index s = 0; s < segments(); ++s) {
            const PartialAttention part = partial(first + s);
            total.add({part.max[i], part.sum[i]}, part.sum_values + i * stride_, head_dim_,
                      workspace_.merged.data());
          }
        total.write(workspace_.merged.data(), head_dim_, result);
        if (log_sum_exp != nullptr)
          log_sum_exp[token * kv_heads_ * heads_ + query_head] = total.log_sum_exp();
      }
  }

  const LayerView<Scalar>& layer_;
  const QueryRows<Scalar>& query_rows_;
  Workspace& workspace_;
  Index kv_heads_;
  Index heads_;  // query heads of a kv head
  Index head_dim_;
  Index stride_;  // of a row of partial sums
  Index rows_;    // query rows of a kv head: tokens times heads_
};

}  // namespace squat::detail
