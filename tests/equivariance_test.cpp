// What a cache does does not depend on the unit in which keys or values are measured.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "dense_attention.hpp"
#include "same_bytes.hpp"
#include "small_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

const ModelShape two_heads{1, 4, 2, 64};

struct Sized {
  Rows queries, keys, values;

  explicit Sized(unsigned seed, Index count = 400)
      : queries(correlated_matrix<float>(count, 4 * 64, seed)),
        keys(correlated_matrix<float>(count, 2 * 64, seed + 1)),
        values(correlated_matrix<float>(count, 2 * 64, seed + 2)) {
    queries *= 0.03f;
  }

  Sized times(float of_keys, float of_values) const {
    Sized other = *this;
    other.queries *= 1 / of_keys;  // scores stay
    other.keys *= of_keys;
    other.values *= of_values;
    return other;
  }
};

/// A prompt, then tokens one by one.
void feed_sized(Cache& cache, const Sized& states) {
  const Index count = states.keys.rows(), prompt = count - 70;
  const auto part = [&](Index first, Index n) {
    cache.update(0, Queries(states.queries.middleRows(first, n)),
                 Keys(states.keys.middleRows(first, n)),
                 Values(states.values.middleRows(first, n)));
    cache.flush(0);
  };
  part(0, prompt);
  for (Index t = prompt; t < count; ++t) part(t, 1);
}

Rows attended(const Cache& cache, const Sized& states, Index rows) {
  Rows out(rows, 4 * 64);
  cache.attend(0, Rows(states.queries.bottomRows(rows)), out);
  return out;
}

/// Of attention's output, relative, for the newest token.
double error_of(const Config& config, const Sized& states) {
  Cache cache(two_heads, config);
  feed_sized(cache, states);
  const Matrix<double> exact =
      dense_attention<float>(two_heads, states.queries.bottomRows(1), states.keys, states.values);
  return (attended(cache, states, 1).cast<double>() - exact).norm() / exact.norm();
}

Config per_token(int scale_bits, bool rotate) {
  Config config = Config::recommended(4.5);
  config.adaptive_bits = false;
  config.key_bits = 4;
  config.key_scales = KeyScales::per_token;
  config.residual_length = 0;
  config.rotate_keys = rotate;
  config.scale_bits = scale_bits;
  return config;
}

/// By name, all without a size of their own: lambda is normalised.
std::vector<std::pair<std::string, Config>> sizeless_configs() {
  std::vector<std::pair<std::string, Config>> configs;
  for (const double bits : {1.75, 2.5, 3.0, 4.5, 8.0})
    configs.emplace_back("recommended", Config::recommended(bits));
  Config published;
  published.normalised_lambda = true;
  published.squat_lambda = 3;
  for (const int scale_bits : {8, 16, 32}) {
    published.scale_bits = scale_bits;
    configs.emplace_back("published", published);
    configs.emplace_back("per token", per_token(scale_bits, scale_bits == 16));
  }
  published.arithmetic = Arithmetic::dequantized;
  configs.emplace_back("dequantized", published);
  return configs;
}

/// Multiplies keys or values by powers of two: of what is stored and attended to, only they change.
void expect_same_codes(const Sized& states, bool of_keys) {
  for (const auto& [name, config] : sizeless_configs()) {
    Cache cache(two_heads, config);
    feed_sized(cache, states);
    for (const int power : {-60, -33, -20, -8, -3, 2, 8}) {
      SCOPED_TRACE(name + ", scales of " + std::to_string(config.scale_bits) +
                   (of_keys ? " bits, keys * 2^" : " bits, values * 2^") + std::to_string(power));
      const float factor = std::ldexp(1.0f, power);
      const float keys = of_keys ? factor : 1, values = of_keys ? 1 : factor;
      const Sized other = states.times(keys, values);
      Cache moved(two_heads, config);
      feed_sized(moved, other);
      EXPECT_TRUE(same(Rows(cache.keys(0) * keys), moved.keys(0)));
      EXPECT_TRUE(same(Rows(cache.values(0) * values), moved.values(0)));
      for (const Index rows : {1, 60})
        EXPECT_TRUE(
            same(Rows(attended(cache, states, rows) * values), attended(moved, other, rows)))
            << rows;
    }
  }
}

TEST(Equivariance, CodesAreThoseOfKeysInAnotherUnit) { expect_same_codes(Sized(1), true); }

TEST(Equivariance, CodesAreThoseOfValuesInAnotherUnit) { expect_same_codes(Sized(2), false); }

TEST(Equivariance, NoSizeOfKeysOrValuesErrsMore) {
  const Sized states(3);
  for (const double bits : {2.5, 4.5, 8.0}) {
    const double usual = error_of(Config::recommended(bits), states);
    for (const float factor : {1e-2f, 1e-4f, 1e-5f, 1e-7f, 1e-20f}) {
      EXPECT_LE(error_of(Config::recommended(bits), states.times(factor, 1)), 1.2 * usual)
          << bits << " bits, keys " << factor;
      EXPECT_LE(error_of(Config::recommended(bits), states.times(1, factor)), 1.2 * usual)
          << bits << " bits, values " << factor;
    }
  }
}

TEST(Equivariance, QueriesOfAnySizeFitTheSameMetric) {
  const Sized states(4);
  for (const double decay : {0.0, 0.99}) {
    Config config = Config::recommended(2.5);
    config.query_decay = decay;
    Cache cache(two_heads, config);
    feed_sized(cache, states);
    for (const int power : {-100, -70, 58, 61}) {
      Sized other = states;
      other.queries *= std::ldexp(1.0f, power);
      Cache moved(two_heads, config);
      feed_sized(moved, other);
      EXPECT_TRUE(same(cache.keys(0), moved.keys(0))) << power;
    }
  }
}

TEST(Equivariance, WhatGrowsAfterAPromptIsNotClipped) {
  const Sized small = Sized(5).times(1, 1), states(6);
  for (const auto& [name, config] : sizeless_configs())
    for (const float before : {0.0f, 1e-6f, 1e-2f}) {
      SCOPED_TRACE(name + ", scales of " + std::to_string(config.scale_bits) + " bits, before " +
                   std::to_string(before));
      Sized both = states;
      for (Rows* part : {&both.keys, &both.values}) part->topRows(200) *= before;
      Cache cache(two_heads, config), usual(two_heads, config);
      feed_sized(cache, both);
      feed_sized(usual, states);
      const auto error = [&](const Rows& stored, const Rows& given) {
        return (stored - given).middleRows(200, 130).norm();
      };
      EXPECT_LE(error(cache.keys(0), both.keys), 1.3f * error(usual.keys(0), states.keys));
      EXPECT_LE(error(cache.values(0), both.values), 1.3f * error(usual.values(0), states.values));
      const Matrix<double> same_stored = dense_attention<float>(
          two_heads, both.queries.bottomRows(1), cache.keys(0), cache.values(0));
      const Rows out = attended(cache, both, 1);
      EXPECT_LE((out.cast<double>() - same_stored).norm(), 0.05 * same_stored.norm());
    }
}

}  // namespace
}  // namespace squat::testing
