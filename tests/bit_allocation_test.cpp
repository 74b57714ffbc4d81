// Which channels get how many bits.
#include <gtest/gtest.h>

#include <Eigen/Dense>

#include <numeric>
#include <squat/detail/plan/bit_allocation.hpp>
#include <squat/detail/plan/key_statistics.hpp>

#include "expect_error.hpp"
#include "random_matrix.hpp"

namespace squat::testing {

using namespace detail;
namespace {

QuerySubspace subspace_of(Index head_dim, Index rank = 512, double lambda = 1) {
  SecondMoment moment(head_dim);
  moment.add<double>(correlated_matrix(200, head_dim, 4));
  return QuerySubspace::fit(moment, rank, lambda, true);
}

double mean(const BitAllocation& allocation) {
  return std::accumulate(allocation.bits.begin(), allocation.bits.end(), 0.0) /
         static_cast<double>(allocation.bits.size());
}

TEST(UnitUpperFactor, GivesWhatAnErrorStillCosts) {
  const Matrix<double> A = subspace_of(24).metric();
  const UnitUpperFactor factor(A);
  const Matrix<double> upper = factor.u.triangularView<Eigen::StrictlyUpper>();
  const Matrix<double> U = upper + Matrix<double>::Identity(24, 24);
  EXPECT_LE((U * factor.d.asDiagonal() * U.transpose() - A).cwiseAbs().maxCoeff(), 1e-12);
  for (Index j = 0; j + 1 < 24; ++j) {
    const Index rest = 23 - j;  // the Schur complement of the channels that come later
    const double schur =
        A(j, j) - (A.row(j).tail(rest) * A.bottomRightCorner(rest, rest).inverse() *
                   A.row(j).tail(rest).transpose())(0);
    EXPECT_NEAR(factor.d[j], schur, 1e-10);
  }
}

TEST(NormalisedLambda, DoesNotDependOnNumberAndSizeOfQueries) {
  const Matrix<double> queries = correlated_matrix(100, 16, 1);
  SecondMoment once(16), thrice(16);
  once.add<double>(queries);
  for (int i = 0; i < 3; ++i) thrice.add<double>(Matrix<double>(7 * queries));
  const Matrix<double> a = QuerySubspace::fit(once, 5, 2, true).metric();
  const Matrix<double> b = QuerySubspace::fit(thrice, 5, 2, true).metric();
  EXPECT_LE((a - b).cwiseAbs().maxCoeff(), 1e-9);
  // With all directions the mean of A's diagonal is 1 + lambda.
  EXPECT_NEAR(QuerySubspace::fit(once, 16, 2, true).metric().trace() / 16, 3, 1e-9);
}

TEST(AllocateBits, MeetsTheMeanWithEveryChannelOnce) {
  for (const Index d : {8, 24, 64, 80, 128})
    for (double bits = 1; bits <= 8; bits += 0.375)
      for (const ScaleFit fit : {ScaleFit::min_max, ScaleFit::unbiased}) {
        const Eigen::VectorXd ranges = random_matrix(1, d, 6).row(0).transpose().cwiseAbs2();
        const BitAllocation allocation =
            allocate_bits(KeyMetric(subspace_of(d)), ranges, bits, fit);
        const double octets = static_cast<double>(d) / 8;
        EXPECT_NEAR(mean(allocation), std::floor(bits * octets + 1e-6) / octets, 1e-9);
        EXPECT_EQ(mean(even_bits(d, bits)), mean(allocation));
        EXPECT_TRUE(std::is_sorted(allocation.bits.begin(), allocation.bits.end()));
        std::vector<std::uint16_t> channels = allocation.order;
        std::sort(channels.begin(), channels.end());
        for (std::size_t i = 0; i < channels.size(); ++i) EXPECT_EQ(channels[i], i);
        EXPECT_EQ(static_cast<Index>(channels.size()), d);
      }
}

TEST(AllocateBits, GivesMoreToWhatCostsMore) {
  // Ranges of 8 channels are large, of 8 zero; queries see all alike.
  SecondMoment moment(32);
  moment.add<double>(Matrix<double>::Identity(32, 32));
  Eigen::VectorXd ranges = Eigen::VectorXd::Ones(32);
  for (Index i = 0; i < 8; ++i) {
    ranges[4 * i] = 1e4;
    ranges[4 * i + 1] = 0;
  }
  const BitAllocation allocation = allocate_bits(KeyMetric(QuerySubspace::fit(moment, 32, 1, true)),
                                                 ranges, 2.5, ScaleFit::unbiased);
  EXPECT_EQ(allocation.bits.front(), 1);
  EXPECT_GE(allocation.bits.back(), 5);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(allocation.order[i] % 4, 1);
    EXPECT_EQ(allocation.order[24 + i] % 4, 0);
  }
}

TEST(AllocateBits, SpreadsThemWhereNothingIsKnownOfRanges) {
  SecondMoment moment(64);
  moment.add<double>(Matrix<double>::Identity(64, 64));
  const KeyMetric metric(QuerySubspace::fit(moment, 64, 1, true));
  const auto widest = [&](const Eigen::VectorXd& ranges) {
    return allocate_bits(metric, ranges, 2.5, ScaleFit::unbiased).bits.back();
  };
  EXPECT_LE(widest(Eigen::VectorXd::Zero(64)), 3);
  Eigen::VectorXd ranges = Eigen::VectorXd::Ones(64);
  ranges.head(24).setConstant(1e-9);  // a prompt may say so, but the next text may differ
  EXPECT_LE(widest(ranges), 4);
  EXPECT_LE(widest(Eigen::VectorXd::Constant(64, 1e-45)), 3);
}

TEST(KeyStatistics, AreMeansOverBlocksWithoutMaskedTokens) {
  KeyStatistics statistics(8);
  Matrix<double> keys = random_matrix(32, 8, 2);
  keys.row(3).setConstant(1e6);
  std::vector<std::uint8_t> valid(32, 1);
  valid[3] = 0;
  statistics.add(keys, valid);
  keys.row(3) = keys.row(4);
  const Eigen::VectorXd low = keys.colwise().minCoeff().transpose();
  const Eigen::VectorXd high = keys.colwise().maxCoeff().transpose();
  EXPECT_LE((statistics.squared_ranges() - (high - low).cwiseAbs2()).norm(), 1e-12);
  EXPECT_LE((statistics.midpoints() - (high + low) / 2).norm(), 1e-12);
  statistics.add(keys, std::vector<std::uint8_t>(32, 0));  // nothing to learn from
  EXPECT_LE((statistics.midpoints() - (high + low) / 2).norm(), 1e-12);
}

TEST(KeyRecordLayout, CountsWhatItKeepsBesideTheRecords) {
  Config config;
  EXPECT_EQ(KeyRecordLayout(64, 2, config).header_bytes(), 0);
  config.scale_bits = 8;
  EXPECT_EQ(KeyRecordLayout(64, 2, config).header_bytes(), 4 * 64);
  BitAllocation allocation = even_bits(64, 2.5);
  allocation.order.resize(64);
  std::iota(allocation.order.begin(), allocation.order.end(), std::uint16_t{0});
  EXPECT_EQ(KeyRecordLayout(64, allocation, config).header_bytes(), 6 * 64 + 8);
}

TEST(KeyRecordLayout, RefusesAnAllocationOfAnotherSize) {
  EXPECT_ERROR(KeyRecordLayout(64, BitAllocation{{}, {2, 2, 2}}, Config{}), "allocation.bits", "3",
               "64");
  EXPECT_ERROR(KeyRecordLayout(16, BitAllocation{{1, 0}, {2, 2}}, Config{}), "allocation.order",
               "2", "16");
}

}  // namespace
}  // namespace squat::testing
