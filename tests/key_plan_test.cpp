// The plan of a layer's keys, from any metric.
#include <gtest/gtest.h>

#include <squat/detail/plan/key_plan.hpp>

#include "expect_error.hpp"
#include "random_matrix.hpp"

namespace squat::testing {

using namespace detail;

namespace {

constexpr Index d = 32, plan_tokens = 64;

LayerSettings settings(bool adaptive) {
  Config config = Config::recommended(2.5);
  config.adaptive_bits = adaptive;
  if (!adaptive) config.key_bits = 2;
  return config;
}

KeyLayouts blank(const LayerSettings& settings) {
  return std::make_shared<const std::vector<KeyRecordLayout>>(
      1, KeyRecordLayout(d, even_bits(d, settings.key_bits), settings));
}

KeyStatistics statistics() {
  KeyStatistics statistics(d);
  statistics.add(correlated_matrix(plan_tokens, d, 3), Mask());
  return statistics;
}

QuerySubspace subspace() {
  SecondMoment moment(d);
  moment.add<double>(correlated_matrix(200, d, 1));
  return QuerySubspace::fit(moment, d, 3, true);
}

TEST(MakePlan, TakesAMatrixForASubspaceThatHasIt) {
  for (const bool adaptive : {false, true}) {
    const LayerSettings own = settings(adaptive);
    const auto low_rank =
        make_plan<double>({subspace()}, {statistics()}, {RecordTops{8, 8}}, {}, blank(own), own);
    const auto dense = make_plan<double>({KeyMetric(subspace().metric())}, {statistics()},
                                         {RecordTops{8, 8}}, {}, blank(own), own);
    const KeyRecordLayout &a = low_rank->layouts->front(), &b = dense->layouts->front();
    for (Index p = 0; p < d; ++p) {
      EXPECT_EQ(a.channel_at(p), b.channel_at(p));
      EXPECT_EQ(a.bits_at(p), b.bits_at(p));
    }
    // With all directions both are dense.
    const auto tables = low_rank->feedback.front().tables();
    const auto same_tables = dense->feedback.front().tables();
    for (std::size_t i = 0; i < tables.size(); ++i) {
      ASSERT_EQ(tables[i]->size(), same_tables[i]->size());
      if (tables[i]->size() == 0) continue;
      EXPECT_LE((*tables[i] - *same_tables[i]).cwiseAbs().maxCoeff(), 1e-9);
    }
  }
}

TEST(MakePlan, TakesAnySymmetricPositiveMatrix) {
  const Matrix<double> x = random_matrix(d, d, 5);
  const Matrix<double> metric = x.transpose() * x + Matrix<double>::Identity(d, d);
  const LayerSettings own = settings(true);
  const auto plan = make_plan<float>({KeyMetric(metric)}, {statistics()}, {RecordTops{8, 8}}, {},
                                     blank(own), own);
  // Channels that an error costs more in have more bits.
  const KeyRecordLayout& layout = plan->layouts->front();
  EXPECT_LT(layout.bits_at(0), layout.bits_at(d - 1));
  EXPECT_EQ(plan->feedback.front().head_dim(), d);
  // A rotated error costs as much under the rotated metric.
  const Matrix<double> turned = KeyMetric(metric).rotated().matrix();
  const Matrix<double> key = random_matrix(1, metric.cols(), 3);
  Matrix<double> turned_key = key;
  rotate(turned_key.data(), turned_key.cols(), Rotation::signs);
  EXPECT_NEAR((turned_key * turned * turned_key.transpose())(0, 0),
              (key * metric * key.transpose())(0, 0), 1e-9);
}

TEST(MakePlan, RefusesWhatIsNoMetric) {
  EXPECT_ERROR(KeyMetric(random_matrix(d, d + 1, 1)), "metric is [32, 33]", "square");
  const LayerSettings own = settings(true);
  const Matrix<double> negative = -Matrix<double>::Identity(d, d);
  EXPECT_ERROR(make_plan<float>({KeyMetric(negative)}, {statistics()}, {RecordTops{8, 8}}, {},
                                blank(own), own),
               "not positive definite");
}

}  // namespace
}  // namespace squat::testing
