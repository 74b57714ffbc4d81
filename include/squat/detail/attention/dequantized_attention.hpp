// Attention of many query rows: tokens are dequantized once for a tile of them.
#pragma once

#include <optional>
#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/attention/workspace.hpp>
#include <squat/detail/math/rotary.hpp>
#include <squat/executor.hpp>

namespace squat::detail {

/// A dequantized block at a time, for a tile of query rows at a time:
/// softmax(Q K^T * softmax_scale) V over `layer`, in the cache's compute type. A row sees the
/// tokens of its window up to its own position, the full-precision ones before it, and no padding;
/// the row of a padding token is zero, and so is one that sees nothing. out: [rows, query_heads *
/// head_dim]. Where `rope` is not null, queries and dequantized keys turn to their positions.
template <class Scalar>
class DequantizedAttention {
 public:
  using Real = ComputeType<Scalar>;
  using Workspace = AttentionWorkspace<Scalar>;

  DequantizedAttention(const LayerView<Scalar>& layer, const ModelShape& shape,
                       const RopeTable* rope, const QueryRows<Scalar>& rows, Workspace& workspace)
      : layer_(layer),
        shape_(shape),
        rope_(rope),
        rows_(rows),
        workspace_(workspace),
        head_dim_(shape.head_dim),
        heads_(shape.heads_per_kv()),
        scale_(static_cast<Real>(shape.softmax_scale > 0
                                     ? shape.softmax_scale
                                     : 1 / std::sqrt(static_cast<double>(head_dim_)))),
        // Each tile dequantizes all that it sees, so it has as many rows as the second-level cache
        // takes gladly.
        tile_rows_(std::max(std::max(Index{24576} / head_dim_, Index{256}) / heads_, Index{1})),
        tiles_((rows.count() + tile_rows_ - 1) / tile_rows_) {}

  /// Writes to `out` and, unless it is null, to `log_sum_exp`.
  void run(MutableMatrixView<Scalar>& out, float* log_sum_exp, Executor& executor) {
    out_ = &out;
    log_sum_exp_ = log_sum_exp;
    const Index tasks = shape_.kv_heads * tiles_;
    workspace_.tiles.reserve(std::min(tasks, std::max(executor.concurrency(), Index{1})));
    workspace_.tiles.for_each([&](auto& tile) {
      tile.softmax.reserve(std::min(tile_rows_, rows_.count()) * heads_, head_dim_);
      tile.tokens.reserve(head_dim_);
    });
    const std::function<void(Index)> task = [this](Index i) noexcept { run_task(i); };
    // Errors in the choice of kernels belong to the caller's thread.
    simd::vector_kernels();
    simd::matrix_kernels();
    executor.run(tasks, task);
  }

 private:
  void run_task(Index task) const noexcept {
    const auto tile = workspace_.tiles.borrow();
    OnlineSoftmax<Real>& softmax = tile->softmax;
    const Index kv_head = task / tiles_, begin = task % tiles_ * tile_rows_;
    const Index end = std::min(begin + tile_rows_, rows_.count());
    softmax.start((end - begin) * heads_, head_dim_);
    copy_queries(kv_head, begin, end, softmax.queries().data());
    std::optional<RopeWalk<Real>> walk;
    if (rope_ != nullptr) {
      walk.emplace(*rope_);
      walk->rotate(rows_.position(begin), softmax.queries().data(), end - begin,
                   heads_ * head_dim_);
    }
    const auto absorb = [&](DequantizedTokens<Real>& tokens) {
      if (walk) walk->rotate(tokens.first, tokens.keys.data(), tokens.count, head_dim_);
      softmax.absorb(tokens);
    };
    const auto show = [&](const auto& range) {
      for (Index i = begin; i < end; ++i)
        std::fill_n(softmax.visible() + (i - begin) * heads_, heads_, range(rows_.visible(i)));
    };
    if (rows_.window > 0) {
      show([](const TokenRange& visible) { return TokenRange{0, visible.begin}; });
      for_full_precision_tokens(layer_, kv_head, rows_.visible(end - 1).begin, tile->tokens,
                                absorb);
    }
    show([](const TokenRange& visible) { return visible; });
    // What any row sees, full-precision tokens before it aside.
    for_dequantized_tokens(layer_, kv_head, {rows_.visible(begin).begin, rows_.position(end)},
                           tile->tokens, absorb);
    write(kv_head, begin, end, softmax);
  }

  void copy_queries(Index kv_head, Index begin, Index end, Real* target) const {
    for (Index i = begin; i < end; ++i) {
      const Scalar* query = rows_.queries.row(i).data() + kv_head * heads_ * head_dim_;
      for (Index c = 0; c < heads_ * head_dim_; ++c)
        *target++ = scale_ * static_cast<Real>(query[c]);
    }
  }

  void write(Index kv_head, Index begin, Index end, const OnlineSoftmax<Real>& softmax) const {
    Index row = 0;
    for (Index i = begin; i < end; ++i)
      for (Index head = kv_head * heads_; head < (kv_head + 1) * heads_; ++head, ++row) {
        Scalar* result = out_->row(i).data() + head * head_dim_;
        const bool padding = rows_.is_padding(layer_, i);
        if (padding)
          std::fill_n(result, head_dim_, Scalar(0));
        else
          softmax.finish(row, result);
        if (log_sum_exp_ != nullptr)
          log_sum_exp_[i * shape_.query_heads + head] =
              padding ? -std::numeric_limits<float>::infinity()
                      : static_cast<float>(softmax.log_sum_exp(row));
      }
  }

  const LayerView<Scalar>& layer_;
  const ModelShape& shape_;
  const RopeTable* rope_;
  const QueryRows<Scalar>& rows_;
  Workspace& workspace_;
  Index head_dim_;
  Index heads_;  // query heads of a kv head
  Real scale_;
  Index tile_rows_;
  Index tiles_;
  MutableMatrixView<Scalar>* out_ = nullptr;
  float* log_sum_exp_ = nullptr;
};

}  // namespace squat::detail
