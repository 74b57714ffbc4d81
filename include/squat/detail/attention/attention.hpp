// Causal attention over a layer.
#pragma once

#include <squat/detail/attention/decode_attention.hpp>
#include <squat/detail/attention/dequantized_attention.hpp>

namespace squat::detail {

/// Attention over dequantized tokens, or for few rows straight over the codes where `arithmetic` is
/// fast. Codes cannot turn: with `rope` the keys of every call are dequantized.
template <class Scalar>
void attend(const LayerView<Scalar>& layer, const ModelShape& shape, const RopeTable* rope,
            Arithmetic arithmetic, const QueryRows<Scalar>& rows, MutableMatrixView<Scalar>& out,
            float* log_sum_exp, Executor& executor, AttentionWorkspace<Scalar>& workspace) {
  // From about here on, dequantizing once for all rows is cheaper than folding for each.
  constexpr Index few = 8;
  const bool fused = arithmetic == Arithmetic::fast && rope == nullptr &&
                     !std::is_same_v<Scalar, double> && rows.count() <= few &&
                     rows.count() * shape.heads_per_kv() <= FusedAttention<Scalar>::max_rows;
  if (fused)
    DecodeAttention<Scalar>(layer, shape, rows, workspace).run(out, log_sum_exp, executor);
  else
    DequantizedAttention<Scalar>(layer, shape, rope, rows, workspace)
        .run(out, log_sum_exp, executor);
}

}  // namespace squat::detail
