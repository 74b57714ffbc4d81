// Values that have something in common.
#include <gtest/gtest.h>

#include <string>

#include "dense_attention.hpp"
#include "saved_cache.hpp"
#include "small_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

const ModelShape two_pairs{1, 4, 2, 64};

struct Common {
  Rows queries, keys, values;

  /// Values are noise of a size around a vector of other numbers, or of the same.
  Common(float noise, bool alike, unsigned seed = 1, Index count = 400)
      : queries(0.03f * correlated_matrix<float>(count, 4 * 64, seed)),
        keys(correlated_matrix<float>(count, 2 * 64, seed + 1)),
        values(noise * random_matrix<float>(count, 2 * 64, seed + 2)) {
    const Rows mean = random_matrix<float>(1, 2 * 64, seed + 3);
    for (Index t = 0; t < count; ++t)
      values.row(t) += alike ? Rows::Constant(1, 2 * 64, 0.01f) : mean;
  }
};

void feed_common(Cache& cache, const Common& tokens) {
  const Index count = tokens.keys.rows(), prompt = count - 90;
  for (Index t = 0; t < count;) {
    const Index n = t == 0 ? prompt : 1;
    CallOptions options;
    const std::vector<std::uint8_t> valid(static_cast<std::size_t>(n), t % 7 != 6);
    options.mask = valid;
    cache.update(0, Queries(tokens.queries.middleRows(t, n)), Keys(tokens.keys.middleRows(t, n)),
                 Values(tokens.values.middleRows(t, n)), options);
    cache.flush(0);
    t += n;
  }
}

/// Against full precision, relative; attention over codes is near to that over dequantized ones.
double error_with(const Config& config, const Common& tokens, Index rows) {
  Cache cache(two_pairs, config);
  feed_common(cache, tokens);
  std::vector<std::uint8_t> valid;
  for (Index t = 0; t < tokens.keys.rows(); ++t)
    valid.push_back(t < tokens.keys.rows() - 90 || t % 7 != 6);
  const Rows queries = tokens.queries.bottomRows(rows);
  Rows out(rows, 4 * 64);
  CallOptions options;
  cache.attend(0, queries, out, options);
  const Matrix<double> exact =
      dense_attention<float>(two_pairs, queries, tokens.keys, tokens.values, valid);
  const Matrix<double> stored =
      dense_attention<float>(two_pairs, queries, cache.keys(0), cache.values(0), valid);
  EXPECT_LE((out.cast<double>() - stored).norm(),
            0.15 * (stored - exact).norm() + 1e-4 * exact.norm());
  return (out.cast<double>() - exact).norm() / exact.norm();
}

Config keys_one_by_one(double bits) {
  Config config = Config::recommended(bits);
  config.adaptive_bits = false;
  config.key_bits = 4;
  config.key_scales = KeyScales::per_token;
  config.residual_length = 0;
  return config;
}

TEST(ValueMean, ValuesThatAreAllTheSameAreExact) {
  for (const double bits : {1.75, 2.5, 4.5, 8.0})
    for (const Index rows : {1, 60})
      for (const bool alike : {false, true})
        for (const Config& config : {Config::recommended(bits), keys_one_by_one(bits)})
          // The newest tokens are rounded to residual_bits, here and before they are packed.
          EXPECT_LE(error_with(config, Common(0, alike), rows), bits < 3.5 ? 6e-3 : 1e-3)
              << bits << " bits";
}

TEST(ValueMean, CostsNoPrecisionOfWhatDiffers) {
  for (const double bits : {2.5, 4.5})
    for (const Config& config : {Config::recommended(bits), keys_one_by_one(bits)})
      for (const bool alike : {false, true}) {
        // The output is the mean, and a part of noise that is what it would be alone.
        const Common without(0.1f, true), with(0.1f, alike);
        const auto error = [&](const Common& tokens) {
          Cache cache(two_pairs, config);
          feed_common(cache, tokens);
          return (cache.values(0) - tokens.values).topRows(300).norm();
        };
        EXPECT_LE(error(with), 1.05f * error(without)) << bits << " bits";
        EXPECT_LE(error(without), (bits < 3 ? 0.4f : 0.15f) * 0.1f * std::sqrt(300.0f * 128));
      }
}

TEST(ValueMean, IsSaved) {
  for (const Config& config : {Config::recommended(2.5), keys_one_by_one(2.5)}) {
    const Common tokens(0.1f, false);
    Cache cache(two_pairs, config), other(two_pairs, config);
    feed_common(cache, tokens);
    load(other, saved(cache));
    EXPECT_TRUE(same(cache.values(0), other.values(0)));
    EXPECT_TRUE(saved(other) == saved(cache));
    const Common more(0.1f, false, 9, 91);
    for (Cache* one : {&cache, &other}) feed_common(*one, more);
    EXPECT_TRUE(same(cache.values(0), other.values(0)));
  }
}

TEST(ValueMean, IsNoneOfNoise) {
  // A prompt as short as one that says nothing: its mean is chance.
  const Index count = 100;
  const Rows keys = random_matrix<float>(count, 2 * 64, 5);
  const Rows queries = random_matrix<float>(count, 4 * 64, 6);
  float error[2];
  for (const bool balanced : {false, true}) {
    Rows values = random_matrix<float>(count, 2 * 64, 7);
    if (balanced) values.bottomRows(count / 2) = -values.topRows(count / 2);
    Cache cache(two_pairs, Config::recommended(3));
    cache.update(0, Queries(queries), Keys(keys), Values(values));
    cache.flush(0);
    error[balanced] = (cache.values(0) - values).norm();
  }
  EXPECT_LE(error[0], 1.01f * error[1]);
}

}  // namespace
}  // namespace squat::testing
