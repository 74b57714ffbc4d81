// The subspace in which a kv head's queries live, and the metric that it gives to key errors.
#pragma once

#include <Eigen/SVD>
#include <squat/config.hpp>
#include <squat/detail/math/rotation.hpp>
#include <squat/detail/plan/leading_directions.hpp>
#include <squat/detail/plan/second_moment.hpp>
#include <vector>

namespace squat::detail {

/// Qhat = diag(S_r) V_r^T: the leading r right singular vectors of the queries Q [n, head_dim] of a
/// kv head, times their singular values (SQuat, section 4). It defines A = I + lambda Qhat^T Qhat,
/// under which a key error delta costs delta A delta^T.
class QuerySubspace {
 public:
  /// From the second moment Q^T Q, whose eigenvectors are Q's right singular vectors.
  /// With `normalised` squared singular values are divided by their mean over the channels, so that
  /// lambda means the same for every number and size of queries.
  /// A template for the reason that decompose() is one.
  template <class Moment, std::enable_if_t<std::is_same_v<Moment, SecondMoment>, int> = 0>
  static QuerySubspace fit(const Moment& moment, Index rank, double lambda, bool normalised = false,
                           SubspaceMethod method = SubspaceMethod::eigen) {
    using Real = std::decay_t<decltype(moment.sum()(0, 0))>;
    check_arguments(rank, lambda);
    const Index r = std::min(rank, moment.head_dim());
    const LeadingDirections leading = method == SubspaceMethod::power
                                          ? iterate_powers<Real>(moment.sum(), r)
                                          : decompose<Real>(moment.sum(), r);
    Matrix<double> directions(r, moment.head_dim());
    for (Index i = 0; i < r; ++i)
      // Rounding can leave a null direction slightly negative.
      directions.row(i) =
          std::sqrt(std::max(leading.values[i], 0.0)) * leading.vectors.col(i).transpose();
    return {std::move(directions), lambda, normalised ? moment.sum().trace() : 0};
  }

  /// From `directions` diag(S_r) V_r^T [rank, head_dim]. If `trace` is not 0 their squares are
  /// divided by its mean over the channels: it is that of Q^T Q.
  QuerySubspace(Matrix<double> directions, double lambda, double trace = 0)
      : qhat_(std::move(directions)), lambda_(lambda) {
    if (trace > 0) qhat_ /= std::sqrt(trace / static_cast<double>(head_dim()));
  }

  /// From the queries Q [n, head_dim] themselves, by singular value decomposition. A template so
  /// that only a program that calls it compiles the decomposition, which takes longer than all the
  /// rest.
  template <class Queries>
  static QuerySubspace fit(const Eigen::MatrixBase<Queries>& queries, Index rank, double lambda) {
    check_arguments(rank, lambda);
    require(queries.rows() >= 1 && queries.cols() >= 1, "queries are [", queries.rows(), ", ",
            queries.cols(), "]; both must be at least 1");
    const Eigen::MatrixXd q = queries.template cast<double>();
    require(all_finite(q), "queries hold a value that is not finite");
    Eigen::JacobiSVD<Eigen::MatrixXd> svd(q, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Index r = std::min(rank, q.cols()), available = std::min(r, svd.singularValues().size());
    Matrix<double> directions = Matrix<double>::Zero(r, q.cols());
    directions.topRows(available) = svd.singularValues().head(available).asDiagonal() *
                                    svd.matrixV().leftCols(available).transpose();
    return {std::move(directions), lambda};
  }

  /// Channels in another order: position i is channel order[i]. An empty order changes nothing.
  QuerySubspace reordered(const std::vector<std::uint16_t>& order) const {
    QuerySubspace subspace = *this;
    for (std::size_t i = 0; i < order.size(); ++i)
      subspace.qhat_.col(static_cast<Index>(i)) = qhat_.col(order[i]);
    return subspace;
  }

  /// In the coordinates of a rotation R: Qhat R^T, so that the metric is R A R^T.
  QuerySubspace rotated(Rotation rotation = Rotation::signs) const {
    QuerySubspace subspace = *this;
    for (Index i = 0; i < rank(); ++i) rotate(subspace.qhat_.row(i).data(), head_dim(), rotation);
    return subspace;
  }

  Index head_dim() const { return qhat_.cols(); }
  Index rank() const { return qhat_.rows(); }
  double lambda() const { return lambda_; }
  const Matrix<double>& qhat() const { return qhat_; }  ///< [rank, head_dim]

  /// A = I + lambda Qhat^T Qhat [head_dim, head_dim]. Directions count as 2^40 at most: more would
  /// say the same, and I would be lost in what double precision rounds off.
  Matrix<double> metric() const {
    Matrix<double> a = Matrix<double>::Identity(head_dim(), head_dim());
    for (Index i = 0; i < rank(); ++i) {
      const double* const direction = qhat_.row(i).data();
      const double strength = lambda_ * dot(direction, direction, head_dim());
      const double factor =
          strength > most_strength ? lambda_ * (most_strength / strength) : lambda_;
      for (Index j = 0; j < head_dim(); ++j)
        add_multiple(factor * qhat_(i, j), direction, head_dim(), a.row(j).data());
    }
    return a;
  }

 private:
  static constexpr double most_strength = 0x1p40;

  static void check_arguments(Index rank, double lambda) {
    require(rank >= 1, "rank is ", rank, "; it must be at least 1");
    require(is_finite(lambda) && lambda >= 0, "lambda is ", lambda,
            "; it must be finite and not negative");
  }

  Matrix<double> qhat_;
  double lambda_ = 0;
};

}  // namespace squat::detail
