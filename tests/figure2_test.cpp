// Figure 2 of the paper: what 2-bit keys do to the attention of one head of Llama-3.1-8B.
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "round_trip.hpp"

namespace squat::testing {

using namespace detail;
namespace {

constexpr double published_min_max = 5.1405296;
constexpr double published_squat = 1.5488429;

/// 32 tokens of 128 channels as float32, or nothing where the data is not there.
std::optional<Matrix<float>> read_states(const std::string& file) {
  Matrix<float> states(32, 128);
  std::ifstream stream(std::string(SQUAT_SHARED_DATA) + "/fig2/" + file, std::ios::binary);
  stream.read(reinterpret_cast<char*>(states.data()), states.size() * std::streamsize{4});
  if (!stream) return std::nullopt;
  return states;
}

/// Causal attention probabilities [tokens, tokens] of one head, in double.
Matrix<double> probabilities(const Matrix<float>& queries, const Matrix<float>& keys) {
  const double scale = 1 / std::sqrt(static_cast<double>(queries.cols()));
  Matrix<double> p = scale * queries.cast<double>() * keys.cast<double>().transpose();
  for (Index row = 0; row < p.rows(); ++row) {
    p.row(row).tail(p.cols() - row - 1).setConstant(-std::numeric_limits<double>::infinity());
    p.row(row) = (p.row(row).array() - p.row(row).maxCoeff()).exp();
    p.row(row) /= p.row(row).sum();
  }
  return p;
}

class Figure2 : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto q = read_states("q.f32"), k = read_states("k.f32");
    if (!q || !k) GTEST_SKIP() << "no fig2/q.f32 and fig2/k.f32 in " << SQUAT_SHARED_DATA;
    queries_ = *q;
    keys_ = *k;
  }

  /// Sum of |p_hat - p| after 2-bit quantization with `feedback`. In single precision, as
  /// published: two of the keys lie halfway between two codes, and which one they get decides the
  /// third digit.
  double difference(const ErrorFeedback<float>& feedback, int scale_bits) const {
    Config config;
    config.scale_bits = scale_bits;
    const Matrix<float> decoded = round_trip_keys<float, 2>(keys_, feedback, config);
    return (probabilities(queries_, decoded) - probabilities(queries_, keys_)).cwiseAbs().sum();
  }

  static ErrorFeedback<float> min_max() { return ErrorFeedback<float>(128); }

  /// r = 30, lambda = 0.1, step 2.
  ErrorFeedback<float> squat() const {
    return ErrorFeedback<float>(QuerySubspace::fit(queries_, 30, 0.1), 2);
  }

  Matrix<float> queries_, keys_;
};

TEST_F(Figure2, MinMax) { EXPECT_NEAR(difference(min_max(), 32), published_min_max, 5e-5); }

TEST_F(Figure2, Squat) { EXPECT_NEAR(difference(squat(), 32), published_squat, 5e-5); }

TEST_F(Figure2, HalfPrecisionScalesChangeLittle) {
  EXPECT_NEAR(difference(min_max(), 16), published_min_max, 0.03 * published_min_max);
  EXPECT_NEAR(difference(squat(), 16), published_squat, 0.03 * published_squat);
}

}  // namespace
}  // namespace squat::testing
