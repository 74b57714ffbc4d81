// From products of queries and keys to the scores that softmax takes.
#pragma once

#include <cstdlib>
#include <squat/model_shape.hpp>

namespace squat::detail {

/// What a layer does to products before softmax: LayerShape::softcap, then alibi_slopes.
class ScoreRule {
 public:
  explicit ScoreRule(const LayerShape& shape) : shape_(shape) {}

  bool changes_nothing() const { return shape_.softcap == 0 && shape_.alibi_slopes.empty(); }

  /// scores[0..count) of `query_head`, at `position`, with tokens at position_of(0) and so on.
  template <class Real, class PositionOf>
  void apply(Index query_head, Index position, Index count, const PositionOf& position_of,
             Real* scores) const {
    if (shape_.softcap > 0) {
      const Real cap = static_cast<Real>(shape_.softcap);
      Eigen::Map<Eigen::Array<Real, Eigen::Dynamic, 1>> all(scores, count);
      all = cap * (all / cap).tanh();
    }
    if (shape_.alibi_slopes.empty()) return;
    const Real slope = static_cast<Real>(shape_.alibi_slopes[static_cast<std::size_t>(query_head)]);
    for (Index t = 0; t < count; ++t)
      scores[t] -= slope * static_cast<Real>(std::abs(position - position_of(t)));
  }

 private:
  const LayerShape& shape_;
};

}  // namespace squat::detail
