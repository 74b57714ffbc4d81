// A few keys that are far larger or far smaller than all others.
#include <gtest/gtest.h>

#include "dense_attention.hpp"
#include "saved_cache.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

constexpr Index outlier_tokens = 320;

/// Tokens, of which those at `positions` have a number of `size` in channel 3
/// of the first head.
Tokens with_outliers(const std::vector<Index>& positions, float size) {
  Tokens tokens(outlier_tokens, 1);
  tokens.queries *= 0.2f;
  for (const Index position : positions) tokens.keys(position, 3) = size;
  return tokens;
}

Cache filled_with(const Tokens& tokens, const Config& config, const ModelShape& model = shape) {
  Cache cache(model, config);
  update(cache, tokens, 0, 250);
  cache.flush(0);
  for (Index t = 250; t < outlier_tokens; ++t) {
    update(cache, tokens, t, 1);
    cache.flush(0);
  }
  return cache;
}

/// Of attention against full precision, relative. Attention over codes is near
/// to that over what is stored.
double outlier_error(const Cache& cache, const Tokens& tokens, const Rows& queries) {
  const Rows out = attend(cache, queries);
  const Matrix<double> exact =
      dense_attention<float>(cache.shape(), queries, tokens.keys, tokens.values);
  const Matrix<double> stored =
      dense_attention<float>(cache.shape(), queries, cache.keys(0), cache.values(0));
  EXPECT_LE((out.cast<double>() - stored).norm(),
            0.15 * (stored - exact).norm() + 0.01 * exact.norm());
  return (out.cast<double>() - exact).norm() / exact.norm();
}

TEST(Outliers, CostTheOtherTokensNothing) {
  for (const double bits : {2.5, 8.0})
    for (const auto& [size, positions] :
         {std::pair<float, std::vector<Index>>{-300.0f, {70}}, {65504.0f, {70, 71, 140}}}) {
      SCOPED_TRACE(::testing::Message() << bits << " bits, " << size);
      const Config config = Config::recommended(bits);
      const Tokens plain = with_outliers({}, 0), tokens = with_outliers(positions, size);
      const Cache without = filled_with(plain, config), with = filled_with(tokens, config);
      for (const Index rows : {1, 60}) {
        // Of queries that look elsewhere: else the outlier takes all
        // attention.
        Rows queries = plain.queries.bottomRows(rows);
        for (const Index head : {0, 1})
          queries.col(16 * head + 3) =
              (size > 0 ? -1.0f : 1.0f) * queries.col(16 * head + 3).cwiseAbs();
        EXPECT_LE(outlier_error(with, tokens, queries),
                  1.5 * outlier_error(without, plain, queries) + 1e-3);
      }
      // Others are what they would be, but for what fits all blocks.
      Rows keys = with.keys(0), same_keys = without.keys(0);
      for (const Index position : positions) {
        EXPECT_NEAR(keys(position, 3), size, 0.01f * std::abs(size));
        keys.row(position) = same_keys.row(position) = plain.keys.row(position);
      }
      EXPECT_LE((keys - plain.keys).norm(), 1.1f * (same_keys - plain.keys).norm());
      EXPECT_EQ(with.memory().codes, without.memory().codes);
    }
}

TEST(Outliers, AreNoneAmongTokensOfOneSize) {
  Tokens tokens = with_outliers({}, 0);
  const Config config = Config::recommended(2.5);
  const Index residual = filled_with(tokens, config).memory().residual;
  tokens.keys.row(70) *= 2;
  EXPECT_EQ(filled_with(tokens, config).memory().residual, residual);
  tokens.keys.row(70) *= 50;
  EXPECT_GT(filled_with(tokens, config).memory().residual, residual);
}

/// Tokens whose keys have one norm, but for those at `positions`, which have
/// `size` of it in both heads.
Tokens with_small_keys(const std::vector<Index>& positions, float size) {
  Tokens tokens(outlier_tokens, 1);
  normalize_keys(tokens);
  for (const Index position : positions) tokens.keys.row(position) *= size;
  return tokens;
}

/// Largest error of the keys of `tokens`.
float error_of_keys(const Cache& cache, const Tokens& tokens, const std::vector<Index>& positions) {
  const Rows keys = cache.keys(0);
  float error = 0;
  for (const Index t : positions)
    error = std::max(error, (keys.row(t) - tokens.keys.row(t)).cwiseAbs().maxCoeff());
  return error;
}

TEST(Outliers, SmallKeysAreAmongThem) {
  const Config config = Config::recommended(2.5);
  const std::vector<Index> few = {65, 70, 90, 100, 200};  // four of one block, one of another
  const Tokens tokens = with_small_keys(few, 0.45f);
  const Cache cache = filled_with(tokens, config);
  EXPECT_LE(error_of_keys(cache, tokens, few), 2e-3f);  // as precise as newest tokens
  EXPECT_GT(error_of_keys(cache, tokens, {66, 71, 91, 101, 201}), 1e-2f);
  const Cache plain = filled_with(with_small_keys({}, 0), config);
  EXPECT_GT(cache.memory().residual, plain.memory().residual);
  EXPECT_EQ(cache.memory().codes, plain.memory().codes);
}

TEST(Outliers, AreNoneWhereTheyAreNoExceptions) {
  const Config config = Config::recommended(2.5);
  const Index residual = filled_with(with_small_keys({}, 0), config).memory().residual;
  const std::vector<Index> five = {65, 70, 90, 100, 110};
  for (const Tokens& tokens : {with_small_keys(five, 0.45f), with_small_keys({70}, 0.55f)})
    EXPECT_EQ(filled_with(tokens, config).memory().residual, residual);
  // One of three heads is enough, one of four is not.
  for (const Index heads : {3, 4}) {
    const ModelShape model{1, heads, heads, 8};
    Rows keys = random_matrix<float>(outlier_tokens, heads * 8, 1);
    for (Index t = 0; t < outlier_tokens; ++t)
      for (Index head = 0; head < heads; ++head) keys.row(t).segment(8 * head, 8).normalize();
    keys.row(70).leftCols(8) *= 0.1f;
    Cache cache(model, config);
    cache.update(0, Queries(keys), Keys(keys), Values(keys));
    cache.flush(0);
    const float error = (cache.keys(0).row(70) - keys.row(70)).cwiseAbs().maxCoeff();
    EXPECT_EQ(error < 6e-3f, heads == 3) << heads;
  }
  // Published caches keep none.
  const Cache published = filled_with(with_small_keys({70}, 0.1f), Config());
  EXPECT_EQ(published.memory().residual,
            filled_with(with_small_keys({}, 0), Config()).memory().residual);
}

TEST(Outliers, GoWhereTheirTokensGo) {
  const Config config = Config::recommended(4.5);
  const Tokens tokens = with_outliers({70, 140}, 3000);
  ModelShape model = shape;
  model.rope.is_applied = true;
  Cache cache(model, config, 2);
  update(cache, tokens);
  cache.flush(0);
  const Rows keys = cache.keys(0), values = cache.values(0);
  EXPECT_NEAR(keys(70, 3), 3000, 0.1);
  const Rows queries = tokens.queries.bottomRows(2);
  const Rows out = attend(cache, queries);

  Cache loaded(model, config, 2);
  load(loaded, saved(cache));
  EXPECT_TRUE(same(loaded.keys(0), keys));
  EXPECT_TRUE(same(attend(loaded, queries), out));
  EXPECT_TRUE(saved(loaded) == saved(cache));

  cache.fork(0, 1);
  cache.truncate(100);
  EXPECT_TRUE(same(cache.keys(0), keys.topRows(100)));
  update(cache, tokens, 100, 220);
  cache.flush(0);
  EXPECT_NEAR(cache.keys(0)(140, 3), 3000, 0.1);
  cache.truncate(60);
  load(loaded, saved(cache));
  EXPECT_TRUE(same(loaded.keys(0), keys.topRows(60)));
  EXPECT_TRUE(same(cache.keys(0, sequence(1)), keys));

  cache.erase({60, 80}, sequence(1));
  EXPECT_TRUE(cache.keys(0, sequence(1)).middleRows(60, 20).isZero());
  cache.shift({80, 320}, -20, sequence(1));
  EXPECT_NEAR(cache.keys(0, sequence(1))(120, 3), 3000, 0.1);
  EXPECT_TRUE(same(cache.values(0, sequence(1)).bottomRows(240), values.bottomRows(240)));
  load(loaded, saved(cache));
  EXPECT_TRUE(same(loaded.keys(0, sequence(1)), cache.keys(0, sequence(1))));
}

// Nothing is left of those that a window has dropped.
TEST(Outliers, AreForgottenWithTheirBlocks) {
  ModelShape windowed = shape;
  windowed.window = 50;
  const Config config = Config::recommended(2.5);
  const Cache with = filled_with(with_outliers({10, 70}, 3000), config, windowed);
  const Cache without = filled_with(with_outliers({}, 0), config, windowed);
  EXPECT_GT(with.first(0), 70);
  Cache loaded(windowed, config);
  load(loaded, saved(with));
  EXPECT_EQ(saved(with).size(), saved(without).size());
}

}  // namespace
}  // namespace squat::testing
