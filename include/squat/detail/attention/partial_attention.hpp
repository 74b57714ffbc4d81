// Attention of query rows over a part of the tokens.
#pragma once

#include <limits>
#include <squat/detail/store/token_range.hpp>

namespace squat::detail {

/// Query rows of one kv head and what they see.
struct HeadRows {
  Index head;                 ///< the kv head
  const float* queries;       ///< [rows, head_dim], times the softmax scale
  const TokenRange* visible;  ///< [rows], of which begins and ends ascend; full-precision tokens
                              ///< before the begin are seen too
  Index rows;
};

/// Attention of a few query rows of one kv head over a range of tokens, not yet normalised: with
/// several ranges, softmax is merged through `max`.
struct PartialAttention {
  float* sum_values;  ///< [rows, stride] sum of exp(score - max) * value
  float* sum;         ///< [rows] sum of exp(score - max)
  float* max;         ///< [rows] max score, minus infinity where no token was visible
};

}  // namespace squat::detail
