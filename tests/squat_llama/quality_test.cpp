// What an evaluation counts.
#include "quality.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace squat_llama {
namespace {

TEST(Quality, OfTwoPredictions) {
  Quality quality;
  const Eigen::Vector2f even(1, 1), skewed(std::log(3.0f), 0);  // 1/2 1/2 and 3/4 1/4
  quality.add(even, even, 0);
  quality.add(skewed, even, 1);
  const double divergence = 0.75 * std::log(1.5) + 0.25 * std::log(0.5);
  EXPECT_NEAR(quality.mean_divergence(), divergence / 2, 1e-6);
  EXPECT_NEAR(quality.divergence_at(0.99), divergence, 1e-6);
  EXPECT_EQ(quality.top1_agreement(), 1);
  EXPECT_NEAR(quality.perplexity(), 2, 1e-6);
  EXPECT_NEAR(quality.expected_perplexity(), std::sqrt(2 * 4), 1e-6);
}

TEST(Quality, LogitsMayBeLarge) {
  Quality quality;
  quality.add(Eigen::Vector2f(1e4f, 0), Eigen::Vector2f(1e4f, 0), 0);
  EXPECT_EQ(quality.mean_divergence(), 0);
  EXPECT_EQ(quality.perplexity(), 1);
}

TEST(Quality, ByQuarterOfTwoWindows) {
  Quality quality;
  const Eigen::Vector2f even(1, 1), skewed(std::log(3.0f), 0);
  const double divergence = 0.75 * std::log(1.5) + 0.25 * std::log(0.5);
  for (int window = 0; window < 2; ++window)
    for (int token = 0; token < 8; ++token)
      quality.add(token < 2 * window ? even : skewed, even, 0);  // none, then the first quarter
  const auto quarters = quality.mean_divergence_by_quarter(8);
  EXPECT_NEAR(quarters[0], divergence / 2, 1e-6);
  for (std::size_t quarter = 1; quarter < 4; ++quarter)
    EXPECT_NEAR(quarters[quarter], divergence, 1e-6);
}

}  // namespace
}  // namespace squat_llama
