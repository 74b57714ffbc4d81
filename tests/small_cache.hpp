// A small cache and tokens for it, for tests in which their kind does not matter.
#pragma once

#include <squat/squat.hpp>

#include "random_matrix.hpp"
#include "same_bytes.hpp"

namespace squat::testing {

using Cache = SQuatCache<float, 2>;
using Rows = Matrix<float>;

inline const ModelShape shape{1, 4, 2, 16};
inline constexpr Index key_width = 2 * 16, query_width = 4 * 16;

/// Under which feedback moves every code it can.
inline Config strong_feedback() {
  Config config;
  config.quant_group_size = 2;
  config.squat_lambda = 0.1;
  config.subspace_dim = 3;
  return config;
}

/// Bit for bit; of expressions, too.
inline bool same(const Rows& a, const Rows& b) { return same_bytes(a, b); }

/// Queries, keys and values of a number of tokens.
struct Tokens {
  Tokens(Index count, unsigned seed)
      : queries(correlated_matrix<float>(count, query_width, seed)),
        keys(correlated_matrix<float>(count, key_width, seed + 1000)),
        values(random_matrix<float>(count, key_width, seed + 2000)) {}

  Rows queries, keys, values;
};

/// Gives the keys of every head the same norm: none of them is an outlier.
inline void normalize_keys(Tokens& tokens) {
  for (Index t = 0; t < tokens.keys.rows(); ++t)
    for (Index head = 0; head < shape.kv_heads; ++head)
      tokens.keys.row(t).segment(shape.head_dim * head, shape.head_dim).normalize();
}

/// Updates by tokens [first, first + count).
inline void update(Cache& cache, const Tokens& tokens, Index first, Index count,
                   const CallOptions& options = {}) {
  cache.update(0, Queries(tokens.queries.middleRows(first, count)),
               Keys(tokens.keys.middleRows(first, count)),
               Values(tokens.values.middleRows(first, count)), options);
}
inline void update(Cache& cache, const Tokens& tokens, const CallOptions& options = {}) {
  update(cache, tokens, 0, tokens.keys.rows(), options);
}

inline CallOptions sequence(Index index) {
  CallOptions options;
  options.sequence = index;
  return options;
}

inline Rows attend(const Cache& cache, const Rows& queries, const CallOptions& options = {}) {
  Rows out(queries.rows(), queries.cols());
  cache.attend(0, queries, out, options);
  return out;
}

}  // namespace squat::testing
