// What attend() writes, and how precisely its numbers are stored.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <squat/config.hpp>

namespace squat::testing {

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Largest relative error of rounding to Scalar.
template <class Scalar>
constexpr double roundoff() {
  if (std::is_same_v<Scalar, double>) return 1.0 / (1ull << 53);
  if (std::is_same_v<Scalar, float>) return 1.0 / (1 << 24);
  return std::is_same_v<Scalar, Eigen::half> ? 1.0 / (1 << 11) : 1.0 / (1 << 8);
}

/// Output and log-sum-exp of query rows. Until something is written they have seen no token.
template <class Scalar>
struct Attended {
  Matrix<Scalar> out;         // [rows, query_heads * value_dim]
  Matrix<float> log_sum_exp;  // [rows, query_heads]

  Attended(const LayerShape& shape, Index rows)
      : out(Matrix<Scalar>::Constant(rows, shape.query_heads * shape.value_width(),
                                     std::numeric_limits<Scalar>::quiet_NaN())),
        log_sum_exp(Matrix<float>::Constant(rows, shape.query_heads, minus_infinity)) {}
};

/// Every element within `tolerance`, infinite ones equal.
template <class Scalar>
void expect_near(const Matrix<Scalar>& actual, const Matrix<double>& expected, double tolerance) {
  ASSERT_EQ(actual.rows(), expected.rows());
  ASSERT_EQ(actual.cols(), expected.cols());
  for (Index row = 0; row < actual.rows(); ++row)
    for (Index column = 0; column < actual.cols(); ++column) {
      const double a = static_cast<double>(actual(row, column)), e = expected(row, column);
      if (!(a == e || std::abs(a - e) <= tolerance)) {
        ADD_FAILURE() << "row " << row << " column " << column << " is " << a << ", not " << e
                      << " within " << tolerance;
        return;
      }
    }
}

}  // namespace squat::testing
