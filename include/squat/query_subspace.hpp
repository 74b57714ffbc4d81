// The subspace in which a kv head's queries live, and the metric that it gives to key errors.
#pragma once

#include <Eigen/SVD>
#include <squat/config.hpp>
#include <squat/hadamard.hpp>
#include <squat/leading_directions.hpp>
#include <squat/options.hpp>
#include <vector>

namespace squat {

/// Running sum of q^T q over the queries of one kv head: all that a fit needs of them.
class SecondMoment {
 public:
  explicit SecondMoment(Index head_dim) : sum_(Matrix<double>::Zero(head_dim, head_dim)) {}

  /// From its parts. Fails on a sum that is not square or finite, or has a negative diagonal.
  SecondMoment(Matrix<double> sum, Index count) : sum_(std::move(sum)), count_(count) {
    require(sum_.rows() == sum_.cols(), "sum is [", sum_.rows(), ", ", sum_.cols(),
            "]; it must be square");
    require(sum_.allFinite() && (sum_.diagonal().array() >= 0).all(),
            "sum holds a number that is not finite or a negative square");
  }

  /// Adds `queries` [rows, head_dim]; rows that `mask` leaves out are skipped. Fails, adding
  /// nothing, on another width, a mask of another length, or a value that is not finite.
  template <class Scalar>
  void add(MatrixView<Scalar> queries, const Mask& mask = {}) {
    require(queries.cols() == head_dim(), "queries have ", queries.cols(), " columns; head_dim is ",
            head_dim());
    require(mask.empty() || mask.size() == queries.rows(), "mask has ", mask.size(),
            " entries; queries have ", queries.rows(), " rows");
    // Chunks bound the working memory and keep sums of single-precision products short.
    constexpr Index chunk = 256;
    using Real = ComputeType<Scalar>;
    Matrix<double> sum = sum_;
    Index count = count_;
    Matrix<Real> rows(std::min(chunk, queries.rows()), head_dim());
    for (Index first = 0; first < queries.rows(); first += chunk) {
      Index used = 0;
      for (Index row = first; row < std::min(first + chunk, queries.rows()); ++row)
        if (mask[row]) rows.row(used++) = queries.row(row).template cast<Real>();
      sum += (rows.topRows(used).transpose() * rows.topRows(used)).template cast<double>();
      count += used;
    }
    require(sum.allFinite(), "queries hold a value that is not finite, or whose square is not");
    sum_ = std::move(sum);
    count_ = count;
  }

  /// Adds the queries of `other`. Fails, adding nothing, on another width, or a sum that is not
  /// finite.
  void add(const SecondMoment& other) {
    require(other.head_dim() == head_dim(), "the other moment is of head_dim ", other.head_dim(),
            "; this one of ", head_dim());
    Matrix<double> sum = sum_ + other.sum_;
    require(sum.allFinite(), "the sum of the moments is not finite");
    sum_ = std::move(sum);
    count_ += other.count_;
  }

  Index head_dim() const { return sum_.rows(); }
  Index count() const { return count_; }              ///< queries added
  const Matrix<double>& sum() const { return sum_; }  ///< [head_dim, head_dim]
  Index bytes() const { return sum_.size() * Index{sizeof(double)}; }

  /// Weighs what was added so far by `factor`.
  void fade(double factor) { sum_ *= factor; }

 private:
  Matrix<double> sum_;
  Index count_ = 0;
};

/// Qhat = diag(S_r) V_r^T: the leading r right singular vectors of the queries Q [n, head_dim] of a
/// kv head, times their singular values (SQuat, section 4). It defines A = I + lambda Qhat^T Qhat,
/// under which a key error delta costs delta A delta^T.
class QuerySubspace {
 public:
  /// From the second moment Q^T Q, whose eigenvectors are Q's right singular vectors.
  /// With `normalised` squared singular values are divided by their mean over the channels, so that
  /// lambda means the same for every number and size of queries.
  static QuerySubspace fit(const SecondMoment& moment, Index rank, double lambda,
                           bool normalised = false, SubspaceMethod method = SubspaceMethod::eigen) {
    check_arguments(rank, lambda);
    const Index r = std::min(rank, moment.head_dim());
    const LeadingDirections leading = method == SubspaceMethod::power
                                          ? iterate_powers(moment.sum(), r)
                                          : decompose(moment.sum(), r);
    const double mean = moment.sum().trace() / static_cast<double>(moment.head_dim());
    const double unit = normalised && mean > 0 ? mean : 1;
    QuerySubspace subspace;
    subspace.lambda_ = lambda;
    subspace.qhat_.resize(r, moment.head_dim());
    for (Index i = 0; i < r; ++i) {
      // Rounding can leave a null direction slightly negative.
      const double s = std::sqrt(std::max(leading.values[i], 0.0) / unit);
      subspace.qhat_.row(i) = s * leading.vectors.col(i).transpose();
    }
    return subspace;
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
    require(q.allFinite(), "queries hold a value that is not finite");
    Eigen::JacobiSVD<Eigen::MatrixXd> svd(q, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Index r = std::min(rank, q.cols()), available = std::min(r, svd.singularValues().size());
    QuerySubspace subspace;
    subspace.lambda_ = lambda;
    subspace.qhat_ = Matrix<double>::Zero(r, q.cols());
    subspace.qhat_.topRows(available) = svd.singularValues().head(available).asDiagonal() *
                                        svd.matrixV().leftCols(available).transpose();
    return subspace;
  }

  /// Channels in another order: position i is channel order[i]. An empty order changes nothing.
  QuerySubspace reordered(const std::vector<std::uint16_t>& order) const {
    QuerySubspace subspace = *this;
    for (std::size_t i = 0; i < order.size(); ++i)
      subspace.qhat_.col(static_cast<Index>(i)) = qhat_.col(order[i]);
    return subspace;
  }

  /// In the coordinates of a Hadamard rotation H: Qhat H, so that the metric is H A H.
  QuerySubspace rotated() const {
    QuerySubspace subspace = *this;
    for (Index i = 0; i < rank(); ++i) hadamard(subspace.qhat_.row(i).data(), head_dim());
    return subspace;
  }

  Index head_dim() const { return qhat_.cols(); }
  Index rank() const { return qhat_.rows(); }
  double lambda() const { return lambda_; }
  const Matrix<double>& qhat() const { return qhat_; }  ///< [rank, head_dim]

  /// A = I + lambda Qhat^T Qhat [head_dim, head_dim].
  Matrix<double> metric() const {
    Matrix<double> a = Matrix<double>::Identity(head_dim(), head_dim());
    for (Index i = 0; i < rank(); ++i)
      for (Index j = 0; j < head_dim(); ++j) a.row(j) += lambda_ * qhat_(i, j) * qhat_.row(i);
    return a;
  }

 private:
  static void check_arguments(Index rank, double lambda) {
    require(rank >= 1, "rank is ", rank, "; it must be at least 1");
    require(std::isfinite(lambda) && lambda >= 0, "lambda is ", lambda,
            "; it must be finite and not negative");
  }

  Matrix<double> qhat_;
  double lambda_ = 0;
};

}  // namespace squat
