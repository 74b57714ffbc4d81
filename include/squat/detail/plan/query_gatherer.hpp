// How the queries of a call join those that a fit has.
#pragma once

#include <squat/config.hpp>
#include <squat/detail/plan/gathered_queries.hpp>
#include <squat/detail/records/layer_format.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// Tokens whose queries are in `queries`, an entry a kv head or none, exact tokens included.
inline Index gathered_tokens(const LayerFormat& format,
                             const std::vector<GatheredQueries>& queries) {
  const Index count = queries.empty() ? 0 : queries.front().count();
  return count == 0 ? 0
                    : count / format.shape.heads_per_kv() + format.settings.full_precision_tokens;
}

template <class Scalar>
class QueryGatherer {
 public:
  explicit QueryGatherer(const Config& config)
      : query_decay_(config.query_decay),
        turns_queries_(config.subspace_queries == SubspaceQueries::after_rope) {}

  /// Adds `queries` [tokens, query_heads * head_dim] of the tokens from position `size` on, of
  /// which the first `exact` valid ones stay in full precision and do not count, to those
  /// `gathered` of each kv head; returns whether there are any now.
  bool add(const LayerFormat& format, std::vector<GatheredQueries>& gathered, Index size,
           Index exact, const MatrixView<Scalar>& queries, const Mask& mask) const {
    using Real = ComputeType<Scalar>;
    const Index d = format.head_dim();
    std::vector<std::uint8_t> counts(static_cast<std::size_t>(queries.rows()));
    Index counted = 0;
    for (Index token = 0; token < queries.rows(); ++token) {
      const bool is_full_precision = mask[token] && exact > 0;
      exact -= is_full_precision;
      counts[static_cast<std::size_t>(token)] = mask[token] && !is_full_precision;
      counted += mask[token] && !is_full_precision;
    }
    double factor = 1;
    for (Index i = 0; query_decay_ > 0 && i < counted; ++i) factor *= query_decay_;
    const Index group = format.shape.heads_per_kv();
    for (Index kv_head = 0; kv_head < format.kv_heads(); ++kv_head) {
      SecondMoment moment(d);
      for (Index head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const auto own = queries.middleCols(head * d, d);
        if (turns_queries_ && format.rope) {
          Matrix<Real> rotated = own.template cast<Real>();
          RopeWalk<Real>(*format.rope).rotate(size, rotated.data(), rotated.rows(), d);
          moment.add<Real>(rotated, counts);
        } else {
          moment.add<Scalar>(own, counts);
        }
      }
      gathered[static_cast<std::size_t>(kv_head)].add(moment, factor);
    }
    return gathered.front().count() > 0;
  }

 private:
  double query_decay_;
  bool turns_queries_;  // where the cache applies positions
};

}  // namespace squat::detail
