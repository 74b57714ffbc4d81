// A metric taken apart, channel by channel.
#pragma once

#include <squat/detail/finite.hpp>
#include <squat/detail/math/reproducible.hpp>
#include <squat/error.hpp>

namespace squat::detail {

/// A = U D U^T with U unit upper triangular: D_j is what an error in channel j still costs once the
/// channels after it have moved to make up for it.
struct UnitUpperFactor {
  Matrix<double> u;
  Eigen::VectorXd d;

  /// Fails on a metric A [n, n] that is not positive definite.
  explicit UnitUpperFactor(const Matrix<double>& metric) : u(metric), d(metric.rows()) {
    for (Index j = u.rows() - 1; j >= 0; --j) {
      d[j] = u(j, j);
      require(is_finite(d[j]) && d[j] > 0, "metric is not positive definite at channel ", j);
      for (Index i = 0; i < j; ++i) {
        const double factor = u(i, j) / d[j];
        for (Index k = i; k < j; ++k) u(i, k) -= rounded(factor * u(k, j));
      }
      // Only now: column j of A was needed above.
      for (Index i = 0; i < j; ++i) u(i, j) /= d[j];
    }
  }
};

}  // namespace squat::detail
