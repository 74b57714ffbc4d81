// The recommended cache on states that break other quantizers.
#include "hard_states.hpp"

#include <gtest/gtest.h>

#include "dense_attention.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

constexpr Index judged = 32;  // newest queries

/// Of attention's output, relative, over other keys and values or from a cache.
double hard_error(const HardStates& states, const Matrix<double>& out) {
  const Matrix<double> exact = dense_attention<float>(
      HardStates::shape(), states.queries.bottomRows(judged), states.keys, states.values);
  return (out - exact).norm() / exact.norm();
}

/// The prompt at once, then token by token.
double hard_error(const HardStates& states, const Config& config) {
  Cache cache(HardStates::shape(), config);
  const auto feed = [&](Index first, Index count) {
    cache.update(0, Queries(states.queries.middleRows(first, count)),
                 Keys(states.keys.middleRows(first, count)),
                 Values(states.values.middleRows(first, count)));
    cache.flush(0);
  };
  feed(0, HardStates::prompt);
  for (Index token = HardStates::prompt; token < HardStates::tokens; ++token) feed(token, 1);
  Rows out(judged, HardStates::query_heads * HardStates::head_dim);
  cache.attend(0, Rows(states.queries.bottomRows(judged)), out);
  return hard_error(states, Matrix<double>(out.cast<double>()));
}

/// What ggml's q4_0 makes of rows: 32 numbers share a scale of half precision, their largest over
/// -8.
Rows rounded_to_q4_0(Rows rows) {
  for (float* block = rows.data(); block != rows.data() + rows.size(); block += 32) {
    const float largest = *std::max_element(
        block, block + 32, [](float a, float b) { return std::abs(a) < std::abs(b); });
    const float scale = largest / -8, inverse = scale != 0 ? 1 / scale : 0;
    const float stored = static_cast<float>(Eigen::half(scale));
    for (float* x = block; x != block + 32; ++x)
      *x = stored * (std::min(std::floor(*x * inverse + 8.5f), 15.0f) - 8);
  }
  return rows;
}

double error_of_q4_0(const HardStates& states) {
  return hard_error(
      states, dense_attention<float>(HardStates::shape(), states.queries.bottomRows(judged),
                                     rounded_to_q4_0(states.keys), rounded_to_q4_0(states.values)));
}

/// Min-max codes without feedback: 2 bits, and one of scales.
Config min_max_of_3_bits() {
  Config config;
  config.squat_lambda = 0;
  return config;
}

TEST(HardStates, ThreeBitsErrLessThanMinMaxAndQ40) {
  for (const HardStates& states : HardStates::all()) {
    SCOPED_TRACE(states.name);
    Config config = Config::recommended(3);
    if (states.changes_after_prompt) config.query_decay = 0.99;
    const double error = hard_error(states, config);
    EXPECT_LT(error, hard_error(states, min_max_of_3_bits()));
    EXPECT_LT(error, error_of_q4_0(states));
  }
}

TEST(HardStates, EightBitsErrByAHundredthAtMost) {
  for (const HardStates& states : HardStates::all())
    EXPECT_LE(hard_error(states, Config::recommended(8)), 1e-2) << states.name;
}

TEST(HardStates, BitsFollowMoreThanOneTokenAfterAPromptOfOne) {
  // Channels that stood still in the prompt are no reason to give all bits to a few others.
  const HardStates states = HardStates::repeated_token(false);
  EXPECT_LT(hard_error(states, Config::recommended(3)), error_of_q4_0(states));
}

}  // namespace
}  // namespace squat::testing
