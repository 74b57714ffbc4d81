// Random numbers in place of what a model projects: the examples that use them need no model.
#pragma once

#include <random>
#include <squat/squat.hpp>

namespace noise {

/// One layer's queries, keys and values, a row a token.
struct Tokens {
  squat::Matrix<float> queries, keys, values;

  Tokens rows(squat::Index first, squat::Index count) const {
    return {queries.middleRows(first, count), keys.middleRows(first, count),
            values.middleRows(first, count)};
  }
};

/// The same for the same seed.
inline Tokens tokens(const squat::ModelShape& shape, squat::Index count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  const auto draw = [&](squat::Index heads) -> squat::Matrix<float> {
    return squat::Matrix<float>::NullaryExpr(count, heads * shape.head_dim,
                                             [&] { return normal(generator); });
  };
  return {draw(shape.query_heads), draw(shape.kv_heads), draw(shape.kv_heads)};
}

}  // namespace noise
