// The query subspace: from queries, from chunks of them, in every scalar type.
#include <gtest/gtest.h>

#include <Eigen/Dense>

#include <Eigen/Eigenvalues>
#include <limits>
#include <squat/detail/plan/metric_factor.hpp>
#include <squat/detail/plan/query_subspace.hpp>
#include <vector>

#include "expect_error.hpp"
#include "random_matrix.hpp"

namespace squat::testing {

using namespace detail;
namespace {

template <class Scalar = double>
SecondMoment moment_of(const Matrix<Scalar>& queries, const Mask& mask = {}) {
  SecondMoment moment(queries.cols());
  moment.add<Scalar>(queries, mask);
  return moment;
}

/// Largest difference of two metrics, relative to the second's largest element.
double difference(const QuerySubspace& a, const QuerySubspace& b) {
  return (a.metric() - b.metric()).cwiseAbs().maxCoeff() / b.metric().cwiseAbs().maxCoeff();
}

TEST(SecondMoment, IsTheSumOfOuterProducts) {
  const Matrix<double> queries = random_matrix(5, 8, 1);
  Matrix<double> sum = Matrix<double>::Zero(8, 8);
  for (Index i = 0; i < 5; ++i) sum += queries.row(i).transpose() * queries.row(i);
  const SecondMoment moment = moment_of(queries);
  EXPECT_EQ(moment.head_dim(), 8);
  EXPECT_EQ(moment.count(), 5);
  EXPECT_LE((moment.sum() - sum).cwiseAbs().maxCoeff(), 1e-13);
}

TEST(QuerySubspace, OfHugeQueriesHasAMetricThatFactors) {
  for (const double size : {1.0, 1e8, 1e30}) {
    const Matrix<double> queries = size * random_matrix(100, 24, 4);
    const UnitUpperFactor factor(QuerySubspace::fit(moment_of(queries), 24, 0.1).metric());
    EXPECT_GE(factor.d.minCoeff(), 0.9) << size;  // an error costs at least its own size
    EXPECT_LE(factor.d.maxCoeff(), 0x1p41) << size;
  }
}

TEST(SecondMoment, ChunksAddUpToTheWhole) {
  // More rows than are taken at once, in chunks around that number.
  const Matrix<double> queries = correlated_matrix(1100, 24, 2);
  const SecondMoment whole = moment_of(queries);
  for (const Index chunk : {1, 100, 256, 257, 1024}) {
    SecondMoment sum(24);
    for (Index first = 0; first < queries.rows(); first += chunk)
      sum.add<double>(queries.middleRows(first, std::min(chunk, queries.rows() - first)));
    EXPECT_EQ(sum.count(), whole.count());
    EXPECT_LE((sum.sum() - whole.sum()).norm(), 1e-12 * whole.sum().norm()) << "chunk " << chunk;
    EXPECT_LE(difference(QuerySubspace::fit(sum, 6, 0.1), QuerySubspace::fit(whole, 6, 0.1)), 1e-9);
  }
}

TEST(SecondMoment, LeavesOutWhatTheMaskLeavesOut) {
  Matrix<double> queries = random_matrix(600, 8, 3);
  std::vector<std::uint8_t> valid(600);
  Matrix<double> kept(0, 8);
  for (Index i = 0; i < 600; ++i) {
    valid[static_cast<std::size_t>(i)] = i % 3 != 0;
    if (i % 3 == 0) {
      queries.row(i).setConstant(std::numeric_limits<double>::quiet_NaN());
    } else {
      kept.conservativeResize(kept.rows() + 1, 8);
      kept.bottomRows(1) = queries.row(i);
    }
  }
  const SecondMoment moment = moment_of(queries, valid);
  EXPECT_EQ(moment.count(), 400);
  EXPECT_LE((moment.sum() - moment_of(kept).sum()).norm(), 1e-12 * moment.sum().norm());
}

TEST(SecondMoment, TakesEveryScalar) {
  const Matrix<double> queries = correlated_matrix(700, 16, 4);
  const auto error = [&](auto scalar) {
    using Scalar = decltype(scalar);
    // Against the same rounded numbers in double: only the arithmetic differs.
    const Matrix<Scalar>& rounded = queries.cast<Scalar>();
    const Matrix<double> exact = moment_of<double>(rounded.template cast<double>()).sum();
    return (moment_of<Scalar>(rounded).sum() - exact).norm() / exact.norm();
  };
  EXPECT_LE(error(double()), 1e-14);
  EXPECT_LE(error(float()), 1e-6);
  EXPECT_LE(error(Eigen::half()), 1e-6);
  EXPECT_LE(error(Eigen::bfloat16()), 1e-6);
}

TEST(SecondMoment, RefusesWhatItCannotAdd) {
  SecondMoment moment = moment_of(random_matrix(4, 8, 5));
  const Matrix<double> before = moment.sum();
  const Matrix<double> queries = random_matrix(3, 8, 6);
  const std::vector<std::uint8_t> short_mask(2, 1);
  Matrix<double> not_finite = queries;
  not_finite(1, 2) = std::numeric_limits<double>::infinity();
  EXPECT_ERROR(moment.add<double>(random_matrix(3, 9, 7)), "queries", "9", "8");
  EXPECT_ERROR(moment.add<double>(queries, short_mask), "mask", "2", "3");
  EXPECT_ERROR(moment.add<double>(not_finite), "queries", "not finite");
  EXPECT_EQ(moment.sum(), before);
  EXPECT_EQ(moment.count(), 4);
}

TEST(QuerySubspace, KeepsTheLeadingDirections) {
  const Index rank = 5;
  const double lambda = 0.3;
  const Matrix<double> queries = correlated_matrix(60, 16, 8);
  const QuerySubspace subspace = QuerySubspace::fit(queries, rank, lambda);
  EXPECT_EQ(subspace.head_dim(), 16);
  EXPECT_EQ(subspace.rank(), rank);
  EXPECT_EQ(subspace.lambda(), lambda);

  // Rows are orthogonal, and as long as the singular values, which fall.
  const Matrix<double> gram = subspace.qhat() * subspace.qhat().transpose();
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> all(
      Eigen::MatrixXd(queries.transpose() * queries));
  for (Index i = 0; i < rank; ++i)
    for (Index j = 0; j < rank; ++j)
      EXPECT_NEAR(gram(i, j), i == j ? all.eigenvalues()[15 - i] : 0, 1e-9 * gram(0, 0));
  // Nothing of the queries outside the subspace is longer than what it leaves out.
  const Matrix<double> directions =
      gram.diagonal().cwiseSqrt().cwiseInverse().asDiagonal() * subspace.qhat();
  const Matrix<double> outside = queries - queries * directions.transpose() * directions;
  EXPECT_NEAR(outside.squaredNorm(), all.eigenvalues().head(16 - rank).sum(), 1e-9 * gram(0, 0));

  const Matrix<double> metric =
      Matrix<double>::Identity(16, 16) + lambda * subspace.qhat().transpose() * subspace.qhat();
  EXPECT_LE((subspace.metric() - metric).cwiseAbs().maxCoeff(), 1e-12 * metric.maxCoeff());
}

TEST(QuerySubspace, IsTheSameFromQueriesAndFromTheirMoment) {
  for (const Index rows : {3, 16, 100})
    for (const Index rank : {1, 3, 10, 16, 99}) {
      const Matrix<double> queries = correlated_matrix(rows, 16, 9);
      const QuerySubspace decomposed = QuerySubspace::fit(queries, rank, 0.01);
      const QuerySubspace summed = QuerySubspace::fit(moment_of(queries), rank, 0.01);
      EXPECT_EQ(decomposed.rank(), std::min<Index>(rank, 16));
      EXPECT_EQ(summed.rank(), decomposed.rank());
      EXPECT_LE(difference(summed, decomposed), 1e-9) << rows << " rows, rank " << rank;
    }
}

TEST(QuerySubspace, IsCompleteAtFullRank) {
  const Matrix<double> queries = correlated_matrix(40, 16, 10);
  Matrix<double> metric = 0.01 * queries.transpose() * queries;
  metric.diagonal().array() += 1;
  EXPECT_LE((QuerySubspace::fit(queries, 16, 0.01).metric() - metric).norm(),
            1e-10 * metric.norm());
}

TEST(QuerySubspace, RefusesWhatItCannotFit) {
  Matrix<double> queries = random_matrix(4, 8, 11);
  const SecondMoment moment = moment_of(queries);
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_ERROR(QuerySubspace::fit(moment, 0, 0.1), "rank", "0", "at least 1");
  EXPECT_ERROR(QuerySubspace::fit(queries, -2, 0.1), "rank", "-2", "at least 1");
  EXPECT_ERROR(QuerySubspace::fit(moment, 1, -0.5), "lambda", "-0.5", "not negative");
  EXPECT_ERROR(QuerySubspace::fit(queries, 1, infinity), "lambda", "inf", "finite");
  EXPECT_ERROR(QuerySubspace::fit(Matrix<double>(0, 8), 1, 0.1), "queries", "[0, 8]", "at least 1");
  queries(3, 7) = -infinity;
  EXPECT_ERROR(QuerySubspace::fit(queries, 1, 0.1), "queries", "not finite");
}

}  // namespace
}  // namespace squat::testing
