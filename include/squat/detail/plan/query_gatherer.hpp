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
    const Index group = format.shape.heads_per_kv(), width = group * format.head_dim();
    for (Index kv_head = 0; kv_head < format.kv_heads(); ++kv_head) {
      SecondMoment moment(format.head_dim());
      if (turns(format))
        for (Index head = kv_head * group; head < (kv_head + 1) * group; ++head)
          moment.add<Real>(of_head(format, size, queries, head), counts);
      else
        moment.add<Scalar>(queries.middleCols(kv_head * width, width), counts, group);
      gathered[static_cast<std::size_t>(kv_head)].add(moment, factor);
    }
    return gathered.front().count() > 0;
  }

  /// Adds such queries, none of them exact, to directions, of which the leading ones remain.
  bool join(const LayerFormat& format, std::vector<GatheredQueries>& gathered, Index size,
            const MatrixView<Scalar>& queries, const Mask& mask) const {
    const Index d = format.head_dim(), group = format.shape.heads_per_kv();
    std::vector<Index> tokens;
    for (Index token = 0; token < queries.rows(); ++token)
      if (mask[token]) tokens.push_back(token);
    const Index count = static_cast<Index>(tokens.size()) * group;
    if (count + format.settings.subspace_dim > d) {  // their moment is smaller than they are
      add(format, gathered, size, 0, queries, mask);
      for (GatheredQueries& head : gathered) head.keep_leading(format.settings);
      return true;
    }
    for (Index kv_head = 0; kv_head < format.kv_heads() && count > 0; ++kv_head) {
      Matrix<Real> rows(count, d);
      for (Index head = 0; head < group; ++head) {
        const Matrix<Real> own = of_head(format, size, queries, kv_head * group + head);
        for (std::size_t i = 0; i < tokens.size(); ++i)
          rows.row(static_cast<Index>(i) * group + head) = own.row(tokens[i]);
      }
      gathered[static_cast<std::size_t>(kv_head)].join(rows);
    }
    return gathered.front().count() > 0;
  }

 private:
  using Real = ComputeType<Scalar>;

  bool turns(const LayerFormat& format) const { return turns_queries_ && format.rope != nullptr; }
  /// Those of a query head [tokens, head_dim], as they meet the keys.
  Matrix<Real> of_head(const LayerFormat& format, Index size, const MatrixView<Scalar>& queries,
                       Index head) const {
    const Index d = format.head_dim();
    Matrix<Real> own = queries.middleCols(head * d, d).template cast<Real>();
    if (turns(format)) RopeWalk<Real>(*format.rope).rotate(size, own.data(), own.rows(), d);
    return own;
  }

  double query_decay_;
  bool turns_queries_;  // where the cache applies positions
};

}  // namespace squat::detail
