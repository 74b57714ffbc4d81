// The cache beyond the publication: bits per channel, exact tokens, rotated values, scales of 8
// bits.
#include <gtest/gtest.h>

#include <string>

#include "dense_attention.hpp"
#include "expect_error.hpp"
#include "layer20.hpp"
#include "small_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

const ModelShape wide{1, 4, 2, 64};

struct RandomTokens {
  Rows queries, keys, values;
  RandomTokens(Index count, unsigned seed)
      : queries(correlated_matrix<float>(count, 4 * 64, seed)),
        keys(correlated_matrix<float>(count, 2 * 64, seed + 1)),
        values(correlated_matrix<float>(count, 2 * 64, seed + 2)) {
    keys.row(0) *= 20;  // a sink
  }
};

void feed_random(Cache& cache, const RandomTokens& states, Index first, Index count,
                 const CallOptions& options = {}) {
  cache.update(0, Queries(states.queries.middleRows(first, count)),
               Keys(states.keys.middleRows(first, count)),
               Values(states.values.middleRows(first, count)), options);
  cache.flush(0, {options.sequence});
}

TEST(Recommended, IsAllowedAtEverySizeAndRefusesOthers) {
  for (double bits = 1.75; bits <= 8; bits += 0.125) {
    const Config config = Config::recommended(bits);
    check(config);
    const double mean = (config.key_bits + 0.25 + config.value_bits + 0.125) / 2;
    EXPECT_LE(mean, bits);
    EXPECT_GE(mean, bits - 0.5) << bits;
  }
  EXPECT_ERROR(Config::recommended(1.5), "mean_bits", "1.5", "1.75 to 8");
  EXPECT_ERROR(Config::recommended(9), "mean_bits", "9");
}

TEST(Recommended, TakesTheBitsThatItSays) {
  for (const double bits : {2.25, 3.0, 4.5}) {
    Cache cache(wide, Config::recommended(bits));
    const RandomTokens states(1000, 1);
    feed_random(cache, states, 0, 1000);
    const MemoryUsage usage = cache.memory();
    const double elements = (960 + 936) * 2 * 64;
    const double measured = 8.0 * static_cast<double>(usage.codes + usage.scales) / elements;
    const Config config = cache.config();
    EXPECT_NEAR(measured, (config.key_bits + 0.25 + config.value_bits + 0.125) / 2, 0.02);
    // With what blocks share, over about a thousand tokens.
    EXPECT_LE(measured + 8.0 * static_cast<double>(usage.headers) / elements, bits);
  }
}

TEST(Recommended, DividesTheSameBytesForAContext) {
  const ModelShape small{1, 1, 1, 64}, large{1, 1, 1, 128};
  for (const ModelShape& shape : {small, large})
    for (const Index context : {700, 8192, 16400}) {
      const Rows states = random_matrix<float>(context, shape.head_dim, 3);
      const auto bytes = [&](double bits, Index context_tokens) {
        Config config = Config::recommended(bits, context_tokens);
        config.subspace_method = SubspaceMethod::power;
        Cache cache(shape, config);
        cache.update(0, Queries(states), Keys(states), Values(states));
        cache.flush(0);
        const MemoryUsage usage = cache.memory();
        return usage.total() - usage.reserved;  // which grows in leaps
      };
      Index fewer = 0;
      for (const double bits : {2.25, 2.5, 3.0}) {
        const Index divided = bytes(bits, context);
        EXPECT_LE(divided, bytes(bits, 0)) << bits << " bits, " << context << " tokens";
        EXPECT_LT(fewer, divided) << bits << " bits, " << context << " tokens";
        fewer = divided;
      }
    }
}

TEST(Recommended, KeepsMoreOfTheNewestTokensInLongContexts) {
  const auto residual = [](double bits, Index context) {
    const Config config = Config::recommended(bits, context);
    check(config);
    return config.residual_length;
  };
  EXPECT_EQ(residual(2.5, 0), 64);
  EXPECT_EQ(residual(2.5, 8191), 64);
  EXPECT_EQ(residual(2.5, 8192), 128);
  EXPECT_EQ(residual(2.5, 16384), 256);
  EXPECT_EQ(residual(2.5, 1000000), 512);
  EXPECT_EQ(residual(1.75, 1000000), 64);  // keys have no bits to give
  EXPECT_LT(Config::recommended(2.5, 8192).key_bits, Config::recommended(2.5).key_bits);
  EXPECT_EQ(Config::recommended(2.25, 8191).subspace_dim, 8);
  EXPECT_EQ(Config::recommended(2.25, 8192).subspace_dim, 16);
  EXPECT_ERROR(Config::recommended(2.5, -1), "context_tokens is -1", "0 (unknown) or more");
}

TEST(RollingResidual, NewestKeysAreInFullPrecisionAtAnyTime) {
  const RandomTokens states(400, 21);
  Config config = Config::recommended(2.5);
  config.residual_length = 128;
  config.residual_bits = 0;
  for (const bool rolls : {true, false}) {
    config.rolling_residual = rolls;
    Cache cache(wide, config);
    Index fewest = 400, most = 0;
    for (Index size = 1; size <= 400; ++size) {
      feed_random(cache, states, size - 1, 1);
      if (size < 200) continue;
      const Rows keys = cache.keys(0);
      Index newest = 0;
      while (newest < size &&
             same(Rows(keys.row(size - 1 - newest)), Rows(states.keys.row(size - 1 - newest))))
        ++newest;
      fewest = std::min(fewest, newest);
      most = std::max(most, newest);
    }
    EXPECT_EQ(fewest, rolls ? 64 : 0);
    EXPECT_EQ(most, 127);
  }
}

TEST(Recommended, ErrsFarLessThanThePublishedCacheOfTheSameSize) {
  const Rows queries = layer20('q'), keys = layer20('k'), values = layer20('v');
  const ModelShape shape{1, 9, 3, 64};
  // Of the queries of 256 tokens that come after the prompt.
  const auto error = [&](const Config& config) {
    Cache cache(shape, config);
    cache.update(0, Queries(queries.topRows(1024)), Keys(keys.topRows(1024)),
                 Values(values.topRows(1024)));
    cache.flush(0);
    cache.update(0, Queries(queries.bottomRows(256)), Keys(keys.bottomRows(256)),
                 Values(values.bottomRows(256)));
    cache.flush(0);
    const Rows later = queries.bottomRows(16);
    const Matrix<double> full = dense_attention<float>(shape, later, keys, values);
    return (dense_attention<float>(shape, later, cache.keys(0), cache.values(0)) - full).norm() /
           full.norm();
  };
  const double published = error(Config{}), recommended = error(Config::recommended(3));
  EXPECT_LT(recommended, published / 3) << published;  // which takes 3 bits, too
  EXPECT_LT(error(Config::recommended(2.25)), published / 1.5);
  EXPECT_LT(error(Config::recommended(4.5)), recommended / 1.5);
}

TEST(Recommended, FastArithmeticLosesATenthOfWhatCodesLose) {
  const RandomTokens states(650, 5);
  for (const double bits : {1.75, 2.25, 2.5, 3.0, 3.75, 4.5, 6.0}) {
    Cache cache(wide, Config::recommended(bits));
    feed_random(cache, states, 0, 500);
    feed_random(cache, states, 500, 150);
    for (const Index rows : {1, 4}) {
      const Rows queries = states.queries.bottomRows(rows);
      Rows out(rows, 4 * 64);
      cache.attend(0, queries, out);
      const Matrix<double> full = dense_attention<float>(wide, queries, states.keys, states.values);
      const Matrix<double> same =
          dense_attention<float>(wide, queries, cache.keys(0), cache.values(0));
      EXPECT_LE((out.cast<double>() - same).norm(), 0.1 * (same - full).norm())
          << bits << " bits, " << rows << " rows";
    }
  }
}

TEST(Recommended, ChunksOfDecodedTokensGiveWhatSingleOnesGive) {
  const RandomTokens states(600, 7);
  const auto built = [&](Index chunk, double decay) {
    Config config = Config::recommended(2.5);
    config.query_decay = decay;
    Cache cache(wide, config);
    feed_random(cache, states, 0, 200);
    for (Index t = 200; t < 600; t += chunk) feed_random(cache, states, t, chunk);
    return std::pair<Rows, Rows>(cache.keys(0), cache.values(0));
  };
  const auto single = built(1, 0);
  for (const Index chunk : {8, 50, 400}) {
    const auto other = built(chunk, 0);
    EXPECT_TRUE(same(other.first, single.first)) << chunk;
    EXPECT_TRUE(same(other.second, single.second)) << chunk;
  }
  EXPECT_FALSE(same(built(8, 1).first, single.first));  // the metric follows the queries
}

TEST(FullPrecisionTokens, StayExactBehindPadding) {
  const RandomTokens states(300, 9);
  Config config = Config::recommended(2.25);
  config.full_precision_tokens = 3;
  config.residual_bits = 0;
  std::vector<std::uint8_t> valid(300, 1);
  for (std::size_t t = 0; t < 40; ++t) valid[t] = 0;
  Cache cache(wide, config);
  CallOptions options;
  options.mask = valid;
  feed_random(cache, states, 0, 300, options);
  const Rows keys = cache.keys(0), values = cache.values(0);
  EXPECT_TRUE((keys.topRows(40).array() == 0).all());
  EXPECT_TRUE(same(Rows(keys.middleRows(40, 3)), Rows(states.keys.middleRows(40, 3))));
  EXPECT_TRUE(same(Rows(values.middleRows(40, 3)), Rows(states.values.middleRows(40, 3))));
  EXPECT_FALSE(same(Rows(keys.middleRows(43, 3)), Rows(states.keys.middleRows(43, 3))));
  // Fused attention reads them, too.
  const Rows queries = states.queries.bottomRows(1);
  Rows out(1, 4 * 64);
  cache.attend(0, queries, out);
  const Matrix<double> expected = dense_attention<float>(wide, queries, keys, values, valid);
  EXPECT_LE((out.cast<double>() - expected).norm(), 0.03 * expected.norm());
}

TEST(FullPrecisionTokens, DoNotTouchTheRangesOfOthers) {
  // The sink's key is twenty times as long: with it, its block would be coarser.
  const RandomTokens states(200, 11);
  const auto error = [&](Index exact) {
    Config config;
    config.full_precision_tokens = exact;
    Cache cache(wide, config);
    feed_random(cache, states, 0, 200);
    return (cache.keys(0).middleRows(1, 31) - states.keys.middleRows(1, 31)).norm();
  };
  EXPECT_LT(error(1), 0.5f * error(0));
}

TEST(FullPrecisionTokens, AreTakenAnewAfterTruncation) {
  const RandomTokens states(200, 13), others(200, 14);
  Config config = Config::recommended(2.5);
  config.full_precision_tokens = 2;
  config.residual_bits = 0;
  Cache cache(wide, config);
  feed_random(cache, states, 0, 200);
  cache.truncate(1);
  feed_random(cache, others, 0, 150);
  const Rows keys = cache.keys(0);
  EXPECT_TRUE(same(Rows(keys.topRows(1)), Rows(states.keys.topRows(1))));
  EXPECT_TRUE(same(Rows(keys.row(1)), Rows(others.keys.row(0))));
  EXPECT_FALSE(same(Rows(keys.row(2)), Rows(others.keys.row(1))));
  EXPECT_EQ(cache.size(0), 151);
}

TEST(FullPrecisionTokens, APromptOfNothingElseFitsLater) {
  const RandomTokens states(300, 15);
  Cache cache(wide, Config::recommended(2.5));
  feed_random(cache, states, 0, 1);  // exact: no metric yet
  EXPECT_EQ(cache.memory().subspace, 0);
  for (Index t = 1; t < 300; ++t) feed_random(cache, states, t, 1);
  EXPECT_GT(cache.memory().subspace, 0);
  EXPECT_LT((cache.keys(0) - states.keys).norm(), 0.5f * states.keys.norm());
}

TEST(ValueBits, MayBeOneAndDifferFromTheTemplate) {
  const RandomTokens states(200, 17);
  Config config = Config::recommended(2.5);
  float before = 1e9f;
  for (const int bits : {1, 2, 3, 4, 8}) {
    config.value_bits = bits;
    Cache cache(wide, config);
    feed_random(cache, states, 0, 200);
    const float error = (cache.values(0).topRows(128) - states.values.topRows(128)).norm();
    EXPECT_LT(error, 0.7f * before) << bits;
    before = error;
  }
  config.value_bits = 5;
  EXPECT_ERROR(Cache(wide, config), "config.value_bits", "5", "1, 2, 3, 4 or 8");
}

TEST(KeyBits, MustBeWholeUnlessTheyAdapt) {
  Config config;
  config.key_bits = 2.5;
  EXPECT_ERROR(Cache(wide, config), "config.key_bits", "2.5", "whole");
  config.key_bits = 6;
  Cache cache(wide, config);  // two tiles a code
  const RandomTokens states(64, 19);
  feed_random(cache, states, 0, 64);
  config.key_bits = 8;
  Cache finer(wide, config);
  feed_random(finer, states, 0, 64);
  const float six = (cache.keys(0) - states.keys).norm();
  const float eight = (finer.keys(0) - states.keys).norm();
  EXPECT_NEAR(six / eight, 255.0f / 63, 0.5f);
}

}  // namespace
}  // namespace squat::testing
