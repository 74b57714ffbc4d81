// What an error of a key costs.
#pragma once

#include <squat/detail/plan/error_feedback.hpp>
#include <variant>

namespace squat::detail {

/// A symmetric positive definite matrix A [head_dim, head_dim]: an error delta of a key costs
/// delta A delta^T. It is that of a query subspace, or any other.
class KeyMetric {
 public:
  KeyMetric(QuerySubspace subspace) : metric_(std::move(subspace)) {}
  /// Fails on a matrix that is not square. What factors it fails where it is not positive definite.
  explicit KeyMetric(Matrix<double> metric) : metric_(std::move(metric)) {
    const Matrix<double>& a = std::get<Matrix<double>>(metric_);
    require(a.rows() == a.cols() && a.rows() >= 1, "metric is [", a.rows(), ", ", a.cols(),
            "]; it must be square and not empty");
  }

  Index head_dim() const {
    return std::visit([](const auto& one) { return Index{columns(one)}; }, metric_);
  }

  /// A [head_dim, head_dim].
  Matrix<double> matrix() const {
    if (const auto* subspace = std::get_if<QuerySubspace>(&metric_)) return subspace->metric();
    return std::get<Matrix<double>>(metric_);
  }

  /// With channels in another order: position i is channel order[i]. An empty order changes
  /// nothing.
  KeyMetric reordered(const std::vector<std::uint16_t>& order) const {
    if (const auto* subspace = std::get_if<QuerySubspace>(&metric_))
      return subspace->reordered(order);
    const auto& a = std::get<Matrix<double>>(metric_);
    Matrix<double> b = a;
    for (std::size_t i = 0; i < order.size(); ++i)
      for (std::size_t j = 0; j < order.size(); ++j)
        b(static_cast<Index>(i), static_cast<Index>(j)) = a(order[i], order[j]);
    return KeyMetric(std::move(b));
  }

  /// In the coordinates of a rotation R: R A R^T.
  KeyMetric rotated(Rotation rotation = Rotation::signs) const {
    if (const auto* subspace = std::get_if<QuerySubspace>(&metric_))
      return subspace->rotated(rotation);
    Matrix<double> b = std::get<Matrix<double>>(metric_);
    for (int side = 0; side < 2; ++side) {
      for (Index row = 0; row < b.rows(); ++row) rotate(b.row(row).data(), b.cols(), rotation);
      b.transposeInPlace();
    }
    return KeyMetric(std::move(b));
  }

  /// The feedback under this metric, `step` channels at a time; if `compressed`, as
  /// ErrorFeedback::compress() leaves it.
  template <class Real>
  ErrorFeedback<Real> feedback(Index step, bool compressed = false) const {
    if (const auto* subspace = std::get_if<QuerySubspace>(&metric_))
      return ErrorFeedback<Real>(*subspace, step, compressed);
    return ErrorFeedback<Real>(std::get<Matrix<double>>(metric_), step);
  }

 private:
  static Index columns(const QuerySubspace& subspace) { return subspace.head_dim(); }
  static Index columns(const Matrix<double>& metric) { return metric.cols(); }

  std::variant<QuerySubspace, Matrix<double>> metric_;
};

}  // namespace squat::detail
