// What a fit keeps of the queries of a kv head.
#pragma once

#include <squat/detail/plan/query_subspace.hpp>
#include <squat/detail/records/affine.hpp>
#include <squat/detail/records/layer_settings.hpp>

namespace squat::detail {

/// The second moment of the queries of a kv head: the energy of each channel in single precision
/// and the correlations between channels in 16 bits while queries come, and once the prompt is over
/// the part of it that a metric takes, its leading directions and its trace. In these, more queries
/// can still join. A correlation is wrong by 2^-16 at most, which a thousand sums, one a token,
/// raise to about 2^-11: less than what queries to come differ by.
class GatheredQueries {
 public:
  explicit GatheredQueries(Index head_dim)
      : head_dim_(head_dim),
        energies_(Eigen::VectorXf::Zero(head_dim)),
        correlations_(Correlations::Zero(head_dim * (head_dim - 1) / 2)) {}
  explicit GatheredQueries(const SecondMoment& moment) : GatheredQueries(moment.head_dim()) {
    add(moment);
  }
  /// What keep_leading() leaves: from `directions` [rank, head_dim], with their singular values.
  GatheredQueries(Matrix<float> directions, double trace, Index count)
      : head_dim_(directions.cols()),
        count_(count),
        trace_(trace),
        directions_(std::move(directions)) {}

  /// Directions of no queries, which join() adds to.
  static GatheredQueries no_directions(Index rank, Index head_dim) {
    return {Matrix<float>::Zero(std::min(rank, head_dim), head_dim), 0, 0};
  }

  Index head_dim() const { return head_dim_; }
  Index count() const { return count_; }  ///< queries added
  /// Whether the leading directions alone are there.
  bool has_directions() const { return directions_.size() > 0; }
  const Matrix<float>& directions() const { return directions_; }  ///< [rank, head_dim]
  double trace() const { return trace_; }  ///< of the moment, beside directions
  Index bytes() const {
    return (energies_.size() + directions_.size()) * Index{sizeof(float)} +
           correlations_.size() * Index{sizeof(std::int16_t)};
  }

  /// Of directions: what they do not account for is the same in every direction that is left.
  SecondMoment moment() const {
    Matrix<double> sum = Matrix<double>::Zero(head_dim_, head_dim_);
    if (!has_directions()) {
      sum.diagonal() = energies();
      const Eigen::VectorXd roots = sum.diagonal().cwiseSqrt();
      for (Index i = 0, at = 0; i < head_dim_; ++i)
        for (Index j = 0; j < i; ++j, ++at)
          sum(i, j) = sum(j, i) = correlations_[at] / one * roots[i] * roots[j];
      return SecondMoment(std::move(sum), count_);
    }
    const Matrix<double> q = directions_.cast<double>();
    const double rest = std::max(trace_ - dot(q.data(), q.data(), q.size()), 0.0);
    const double each = head_dim_ > q.rows() ? rest / static_cast<double>(head_dim_ - q.rows()) : 0;
    sum.diagonal().setConstant(each);
    for (Index i = 0; i < q.rows(); ++i) {
      const double* const direction = q.row(i).data();
      const double energy = dot(direction, direction, head_dim_);
      for (Index j = 0; energy > 0 && j < head_dim_; ++j)
        add_multiple((1 - each / energy) * direction[j], direction, head_dim_, sum.row(j).data());
    }
    return SecondMoment(std::move(sum), count_);
  }

  /// Adds queries, after what was there was weighed by `factor`. Fails on another width, or a sum
  /// whose root is beyond single precision, adding nothing.
  void add(const SecondMoment& queries, double factor = 1) {
    require(queries.head_dim() == head_dim_, "queries are of head_dim ", queries.head_dim(),
            "; those before of ", head_dim_);
    if (has_directions()) {
      GatheredQueries all(moment());
      all.add(queries, factor);
      *this = std::move(all);
      return;
    }
    const Eigen::VectorXd before = energies();
    Eigen::VectorXd sum(head_dim_);
    for (Index i = 0; i < head_dim_; ++i)
      sum[i] = rounded(before[i] * factor) + queries.sum()(i, i);
    require(are_within(sum.data(), sum.size(), 0x1p240),
            "queries are so large that their squares add up to more than 2^240");
    correlate(queries.sum(), before.cwiseSqrt(), factor, sum.cwiseSqrt());
    const double top = sum.maxCoeff();
    exponent_ = top > 0 ? std::ilogb(top) : 0;
    energies_ = (sum * std::ldexp(1.0, -exponent_)).cast<float>();
    count_ += queries.count();
  }

  /// Adds queries `rows` [n, head_dim] to directions, a few of them: keeps the leading directions
  /// of both (Frequent Directions of Liberty, 2013, without its shrinkage). Fails on sums as above,
  /// adding nothing.
  template <class Real>
  void join(const Matrix<Real>& rows) {
    double trace = trace_;
    for (Index i = 0; i < rows.size(); ++i) {
      const double x = static_cast<double>(rows.data()[i]);
      trace += rounded(x * x);
    }
    require(are_within(&trace, 1, 0x1p240),
            "queries are so large that their squares add up to more than 2^240");
    const Index rank = directions_.rows(), n = rank + rows.rows();
    Matrix<Real> all(n, head_dim_);
    all << directions_.template cast<Real>(), rows;
    // In a unit of their own squares stay within single precision.
    const Real top = all.cwiseAbs().maxCoeff();
    const int exponent = top > 0 ? std::max(std::ilogb(top), -120) : 0;
    all *= std::ldexp(Real(1), -exponent);
    SquareMatrix<double> products = SquareMatrix<double>::Zero(n, n);
    for (Index i = 0; i < n; ++i)
      for (Index j = i < rank ? i : 0; j <= i; ++j)  // directions are orthogonal
        products(i, j) = products(j, i) =
            static_cast<double>(dot(all.row(i).data(), all.row(j).data(), head_dim_));
    const Matrix<double> parts = decompose<double>(products, rank).vectors.transpose();
    directions_ = (product<Real>(parts.template cast<Real>(), all) * std::ldexp(Real(1), exponent))
                      .template cast<float>();
    trace_ = trace;
    count_ += rows.rows();
  }

  /// Keeps what subspace() asks for with these settings. A template for the reason that decompose()
  /// is one.
  template <class Settings>
  void keep_leading(const Settings& settings) {
    if (has_directions()) return;
    const Index rank = std::min(settings.subspace_dim, head_dim_);
    const SecondMoment all = moment();
    Matrix<float> directions = Matrix<float>::Zero(rank, head_dim_);
    if (count_ > 0 && settings.lambda > 0)
      directions = QuerySubspace::fit(all, rank, settings.lambda, false, settings.subspace_method)
                       .qhat()
                       .template cast<float>();
    directions_.swap(directions);
    trace_ = all.sum().trace();
    energies_.resize(0);
    correlations_.resize(0);
  }

  /// The metric that they give to errors of keys.
  template <class Settings>
  QuerySubspace subspace(const Settings& settings) const {
    if (!has_directions()) {
      GatheredQueries leading = *this;
      leading.keep_leading(settings);
      return leading.subspace(settings);
    }
    return QuerySubspace(directions_.cast<double>(), settings.lambda,
                         settings.has_normalised_lambda ? trace_ : 0);
  }

 private:
  using Correlations = Eigen::Array<std::int16_t, Eigen::Dynamic, 1>;
  static constexpr double one = 32767;  // a correlation of 1
  static constexpr double least_root = 0x1p-500;

  Eigen::VectorXd energies() const { return energies_.cast<double>() * std::ldexp(1.0, exponent_); }

  /// Makes correlations_ those of `factor` times what was there, where `before` are the roots of
  /// energies, plus `queries`; `roots` are those of the sum.
  void correlate(const Matrix<double>& queries, const Eigen::VectorXd& before, double factor,
                 Eigen::VectorXd roots) {
    roots = roots.cwiseMax(least_root);  // where a root is 0, so are the products
    std::int16_t* at = correlations_.data();
    for (Index i = 1; i < head_dim_; ++i) {
      const double* const own = queries.row(i).data();
      const auto add = [&](Index first, auto count) {
        Eigen::Array<double, 8, 1> codes = Eigen::Array<double, 8, 1>::Zero();
        for (Index k = 0; k < count; ++k) {
          const Index j = first + k;
          codes[k] = rounded(at[j] / one * before[i] * before[j] * factor) + own[j];
          codes[k] /= roots[i] * roots[j];
        }
        codes = codes.max(-1.0).min(1.0);
        for (Index k = 0; k < count; ++k)
          at[first + k] = static_cast<std::int16_t>(nearest_integer(codes[k] * one));
      };
      Index j = 0;
      // A loop of known length becomes vectors.
      for (; j + 8 <= i; j += 8) add(j, std::integral_constant<Index, 8>());
      if (j < i) add(j, i - j);
      at += i;
    }
  }

  Index head_dim_;
  Index count_ = 0;
  Eigen::VectorXf energies_;   // of channels, in units of 2^exponent_, or empty
  Correlations correlations_;  // of channel i with those before it, row by row, or empty
  int exponent_ = 0;
  double trace_ = 0;
  Matrix<float> directions_;  // or empty
};

}  // namespace squat::detail
