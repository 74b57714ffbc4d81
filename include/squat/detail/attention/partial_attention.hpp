// Attention of query rows over a part of the tokens.
#pragma once

#include <limits>
#include <squat/options.hpp>

namespace squat::detail {

/// What a query row of a kv head sees.
struct RowSight {
  Index row;           ///< of the call
  Index head;          ///< of the query heads of its kv head
  Index position;      ///< of the row's own token
  TokenRange visible;  ///< where tokens stand
  Index sinks;         ///< so many full-precision tokens besides
};

/// Query rows of one kv head and what they see.
struct HeadRows {
  Index head;              ///< the kv head
  const float* queries;    ///< [rows, head_dim], times the softmax scale
  const RowSight* sights;  ///< [rows]
  TokenRange common;       ///< what all rows see
  Index rows;
};

/// The tokens that `count` rows all see.
inline TokenRange seen_by_all(const RowSight* sights, Index count) {
  TokenRange common = sights[0].visible;
  for (Index i = 1; i < count; ++i)
    common = {std::max(common.begin, sights[i].visible.begin),
              std::min(common.end, sights[i].visible.end)};
  return common;
}

/// Attention of a few query rows of one kv head over a range of tokens, not yet normalised: with
/// several ranges, softmax is merged through `max`.
struct PartialAttention {
  float* sum_values;  ///< [rows, stride] sum of exp(score - max) * value
  float* sum;         ///< [rows] sum of exp(score - max)
  float* max;         ///< [rows] max score, minus infinity where no token was visible
};

}  // namespace squat::detail
