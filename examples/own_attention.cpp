// An attention of the caller's own over the keys and values that a cache gives back. It agrees with
// SQuatCache::attend, which does without dequantized matrices.
#include <cstdio>

#include "noise.hpp"

namespace {

using Matrix = squat::Matrix<float>;

/// The softmax attention of one query to all keys.
Matrix attend(const squat::ModelShape& shape, const Matrix& query, const Matrix& keys,
              const Matrix& values) {
  const squat::Index d = shape.head_dim;
  Matrix out(1, query.cols());
  for (squat::Index head = 0; head < shape.query_heads; ++head) {
    const squat::Index kv = head / shape.heads_per_kv() * d;  // first column of its kv head
    Matrix weights = query.middleCols(head * d, d) * keys.middleCols(kv, d).transpose();
    weights /= std::sqrt(static_cast<float>(d));
    weights = (weights.array() - weights.maxCoeff()).exp();
    out.middleCols(head * d, d) = weights / weights.sum() * values.middleCols(kv, d);
  }
  return out;
}

}  // namespace

int main() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  squat::SQuatCache<float, 2> cache(shape, squat::Config::recommended(4.5));
  const noise::Tokens tokens = noise::tokens(shape, 1000, 1);
  cache.update(0, squat::Queries(tokens.queries), squat::Keys(tokens.keys),
               squat::Values(tokens.values));
  cache.flush(0);

  const Matrix query = tokens.queries.bottomRows(1);  // the newest token sees all
  Matrix out(1, query.cols());
  cache.attend(0, query, out);
  const Matrix own = attend(shape, query, cache.keys(0), cache.values(0));
  const Matrix exact = attend(shape, query, tokens.keys, tokens.values);
  const float difference = (out - own).norm() / own.norm();
  const float error = (own - exact).norm() / exact.norm();
  std::printf("attend differs from it by %.2f %%, full precision by %.1f %%\n",
              static_cast<double>(100 * difference), static_cast<double>(100 * error));
  return difference < error / 5 ? 0 : 1;
}
