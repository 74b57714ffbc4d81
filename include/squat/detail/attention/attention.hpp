// Attention over a layer.
#pragma once

#include <squat/detail/attention/decode_attention.hpp>
#include <squat/detail/attention/tiled_attention.hpp>

namespace squat::detail {

/// Attention straight over the codes where `arithmetic` is fast, or over dequantized tokens. Codes
/// cannot turn: in a layer with a rope the keys of every call are dequantized.
template <class Scalar>
void attend(const QueryRows<Scalar>& rows, Arithmetic arithmetic, MutableMatrixView<Scalar>& out,
            Executor& executor, AttentionWorkspace<Scalar>& workspace) {
  const bool over_codes = arithmetic == Arithmetic::fast && rows.layer.format.rope == nullptr &&
                          !std::is_same_v<Scalar, double>;
  // More rows are enough for tasks of their own, and their tokens in full precision for products of
  // matrices.
  constexpr Index few = 8;
  const bool are_few = rows.count() <= few &&
                       rows.count() * rows.shape.heads_per_kv() <= FusedAttention<Scalar>::max_rows;
  float* const log_sum_exp = rows.options.log_sum_exp;
  if (over_codes && are_few)
    DecodeAttention<Scalar>(rows, workspace).run(out, log_sum_exp, executor);
  else
    TiledAttention<Scalar>(rows, over_codes, workspace).run(out, log_sum_exp, executor);
}

}  // namespace squat::detail
