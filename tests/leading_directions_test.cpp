// Leading eigenvectors by power iteration against a full decomposition.
#include <gtest/gtest.h>

#include <Eigen/Dense>

#include <squat/detail/plan/query_subspace.hpp>

#include "dense_attention.hpp"
#include "expect_error.hpp"
#include "layer20.hpp"
#include "small_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

/// With these eigenvalues, in random directions.
Eigen::MatrixXd with_eigenvalues(const Eigen::VectorXd& values, unsigned seed) {
  const Index n = values.size();
  const Eigen::MatrixXd basis =
      Eigen::HouseholderQR<Eigen::MatrixXd>(random_matrix(n, n, seed)).householderQ();
  return basis * values.asDiagonal() * basis.transpose();
}

/// Largest principal angle between two subspaces, in radians.
double largest_angle(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  // The sine is what a leaves of b; a cosine near 1 would say nothing.
  return (b - a * (a.transpose() * b)).jacobiSvd().singularValues()[0];
}

Eigen::MatrixXd weighted(const LeadingDirections& leading) {
  return leading.vectors * leading.values.asDiagonal() * leading.vectors.transpose();
}

void expect_orthonormal(const Eigen::MatrixXd& vectors) {
  EXPECT_LE(
      (vectors.transpose() * vectors - Eigen::MatrixXd::Identity(vectors.cols(), vectors.cols()))
          .norm(),
      1e-12);
}

TEST(Decompose, AgreesWithEigen) {
  for (const Index n : {1, 2, 3, 8, 37, 128})
    for (const double unit : {1.0, 0x1p-300, 0x1p300}) {
      Eigen::VectorXd values(n);
      for (Index i = 0; i < n; ++i) values[i] = unit * std::exp(-0.3 * static_cast<double>(i));
      if (n == 8) values.tail(5).setZero();
      const Eigen::MatrixXd moment = with_eigenvalues(values, static_cast<unsigned>(n));
      const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(moment / unit);
      const LeadingDirections leading = decompose<double>(moment, n);
      expect_orthonormal(leading.vectors);
      EXPECT_LE((leading.values / unit - eigen.eigenvalues().reverse()).cwiseAbs().maxCoeff(),
                1e-14)
          << n << " " << unit;
      const Eigen::MatrixXd errors =
          moment * leading.vectors - leading.vectors * leading.values.asDiagonal();
      EXPECT_LE(errors.cwiseAbs().maxCoeff() / unit, 1e-14) << n << " " << unit;
    }
}

TEST(Decompose, TakesWhatIsDiagonalOrAllTheSame) {
  for (const Index n : {2, 5, 16}) {
    const Eigen::MatrixXd zeros = Eigen::MatrixXd::Zero(n, n);
    EXPECT_EQ(decompose<double>(zeros, n).values, Eigen::VectorXd::Zero(n));
    expect_orthonormal(decompose<double>(zeros, n).vectors);
    const Eigen::MatrixXd ones = Eigen::MatrixXd::Ones(n, n);
    const LeadingDirections leading = decompose<double>(ones, 2);
    EXPECT_NEAR(leading.values[0], static_cast<double>(n), 1e-13);
    EXPECT_NEAR(leading.values[1], 0, 1e-13);
    Eigen::VectorXd values = Eigen::VectorXd::LinSpaced(n, 1, static_cast<double>(n));
    const Eigen::MatrixXd diagonal = values.asDiagonal();
    EXPECT_EQ(decompose<double>(diagonal, n).values, values.reverse());
  }
}

TEST(Decompose, NamesWhatDoesNotConverge) {
  Eigen::MatrixXd none = Eigen::MatrixXd::Identity(5, 5);
  none(1, 3) = none(3, 1) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_ERROR(decompose<double>(none, 2), "did not converge");
}

TEST(IteratePowers, FindsASubspaceBehindAGap) {
  for (const Index n : {40, 128})
    for (const Index count : {1, 5, 16}) {
      Eigen::VectorXd values(n);
      for (Index i = 0; i < n; ++i)
        values[i] = (i < count ? 10.0 : 1.0) * std::exp(-0.05 * static_cast<double>(i));
      const Eigen::MatrixXd moment = with_eigenvalues(values, 1);
      const LeadingDirections power = iterate_powers<double>(moment, count);
      const LeadingDirections eigen = decompose<double>(moment, count);
      expect_orthonormal(power.vectors);
      EXPECT_LE(largest_angle(eigen.vectors, power.vectors), 1e-3);
      EXPECT_LE((power.values - eigen.values).norm(), 1e-6 * eigen.values.norm());
      EXPECT_LE((weighted(power) - weighted(eigen)).norm(), 1e-3 * weighted(eigen).norm());
    }
}

TEST(IteratePowers, CapturesAsMuchWithoutAGap) {
  for (const double decay : {0.0, 0.001, 0.02}) {
    Eigen::VectorXd values(96);
    for (Index i = 0; i < 96; ++i) values[i] = std::exp(-decay * static_cast<double>(i));
    const Eigen::MatrixXd moment = with_eigenvalues(values, 2);
    const LeadingDirections power = iterate_powers<double>(moment, 10);
    expect_orthonormal(power.vectors);
    EXPECT_GE(power.values.sum(), (1 - 1e-2) * values.head(10).sum()) << "decay " << decay;
    EXPECT_LE(power.values.sum(), (1 + 1e-12) * values.head(10).sum());
  }
}

TEST(IteratePowers, NoAxisIsSpecial) {
  // Whoever starts at the channels of the largest squares misses the direction (1, 1) of the last.
  Eigen::MatrixXd moment = Eigen::MatrixXd::Identity(40, 40);
  moment.diagonal().head(20).setConstant(3);
  moment.bottomRightCorner(2, 2).setConstant(2);
  EXPECT_NEAR(iterate_powers<double>(moment, 1).values[0], 4, 1e-4);
}

TEST(IteratePowers, TakesWhatHasLowRank) {
  for (const Index rows : {0, 1, 3, 12}) {
    const Matrix<double> queries = random_matrix(rows, 64, 3);
    const Eigen::MatrixXd moment = queries.transpose() * queries;
    const LeadingDirections power = iterate_powers<double>(moment, 10),
                            eigen = decompose<double>(moment, 10);
    expect_orthonormal(power.vectors);
    EXPECT_LE((weighted(power) - weighted(eigen)).norm(), 1e-3 * moment.norm()) << rows << " rows";
  }
}

TEST(IteratePowers, NeedsNoPowersForNearlyAll) {
  const Matrix<double> queries = random_matrix(100, 24, 4);
  const Eigen::MatrixXd moment = queries.transpose() * queries;
  EXPECT_EQ(iterate_powers<double>(moment, 16).vectors, decompose<double>(moment, 16).vectors);
}

TEST(IteratePowers, DoesNotDependOnTheUnit) {
  const Matrix<double> queries = correlated_matrix(300, 64, 5);
  const Eigen::MatrixXd moment = queries.transpose() * queries;
  const Eigen::MatrixXd vectors = iterate_powers<double>(moment, 10).vectors;
  for (const double factor : {1.0, 0x1p-40, 0x1p60})
    EXPECT_LE((iterate_powers<double>(factor * moment, 10).vectors - vectors).norm(), 1e-9);
}

TEST(SubspaceMethod, PowerGivesTheMetricOfRealQueries) {
  const Matrix<float> queries = layer20('q');
  for (const bool normalised : {false, true})
    for (const Index rank : {1, 10, 16, 32})
      for (Index head = 0; head < 9; ++head) {
        SecondMoment moment(64);
        moment.add<float>(queries.middleCols(64 * head, 64));
        const auto fit = [&](SubspaceMethod method) {
          return QuerySubspace::fit(moment, rank, 1, normalised, method);
        };
        const QuerySubspace power = fit(SubspaceMethod::power), eigen = fit(SubspaceMethod::eigen);
        EXPECT_LE((power.metric() - eigen.metric()).norm(), 2e-3 * eigen.metric().norm())
            << "head " << head << ", rank " << rank;
      }
}

TEST(SubspaceMethod, PowerServesRealKeysAsWell) {
  const Rows queries = layer20('q'), values = layer20('v').topRows(1024);
  const Rows keys = layer20('k').topRows(1024), later = queries.middleRows(1024, 32);
  const ModelShape model{1, 9, 3, 64};
  Config stepwise;
  stepwise.quant_group_size = 8;
  for (Config config : {stepwise, Config::recommended(2.5)}) {
    const auto stored = [&](SubspaceMethod method) {
      config.subspace_method = method;
      Cache cache(model, config);
      cache.update(0, Queries(queries.topRows(1024)), Keys(keys), Values(values));
      cache.flush(0);
      return cache.keys(0);
    };
    const auto error = [&](const Rows& decoded) {
      return (dense_attention<float>(model, later, decoded, values) -
              dense_attention<float>(model, later, keys, values))
          .norm();
    };
    const Rows power = stored(SubspaceMethod::power), eigen = stored(SubspaceMethod::eigen);
    EXPECT_GE((power.array() == eigen.array()).cast<double>().mean(), 0.8);
    EXPECT_NEAR(error(power) / error(eigen), 1, 0.1);
  }
}

}  // namespace
}  // namespace squat::testing
