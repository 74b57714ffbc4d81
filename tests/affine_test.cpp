// Scales, zero points and codes of one group.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <squat/detail/encoding/range_fit.hpp>
#include <vector>

#include "random_matrix.hpp"

namespace squat::testing {

using namespace detail;
namespace {

template <class Real>
using Group = std::vector<Real>;

template <class Real>
Group<Real> random_group(Index count, double offset, double spread, unsigned seed) {
  const Matrix<double> x = random_matrix(1, count, seed);
  Group<Real> group;
  for (Index i = 0; i < count; ++i) group.push_back(static_cast<Real>(offset + spread * x(0, i)));
  return group;
}

template <class Real>
Affine<Real> fit(const Group<Real>& x, Real max_code, int scale_bits,
                 ScaleFit fit = ScaleFit::min_max) {
  const int bits = static_cast<int>(std::lround(std::log2(max_code + 1)));
  return fit_affine(x.data(), static_cast<Index>(x.size()), {bits, scale_bits, fit});
}

template <class Real>
Real decoded(Real x, const Affine<Real>& affine, Real max_code) {
  return affine.scale * nearest_code(x, affine, inverse_scale(affine), max_code) + affine.zero;
}

template <class Real>
double mean_error(const Group<Real>& x, const Affine<Real>& affine, Real max_code) {
  double sum = 0;
  for (const Real value : x)
    sum += std::abs(static_cast<double>(value - decoded(value, affine, max_code)));
  return sum / static_cast<double>(x.size());
}

template <class Real>
class AffineCodes : public ::testing::Test {};
using Reals = ::testing::Types<float, double>;
TYPED_TEST_SUITE(AffineCodes, Reals, );

TYPED_TEST(AffineCodes, MissByHalfAStepAtMost) {
  using Real = TypeParam;
  for (const Real max_code : {Real(3), Real(7), Real(15), Real(255)})
    for (const double offset : {0.0, -20.0, 500.0})
      for (unsigned seed = 0; seed < 20; ++seed) {
        const Group<Real> x = random_group<Real>(32, offset, 2, seed);
        const Affine<Real> affine = fit(x, max_code, 32);
        // Single precision at the largest magnitude.
        const Real rounding = static_cast<Real>(3e-7 * (std::abs(offset) + 10));
        for (const Real value : x)
          EXPECT_LE(std::abs(value - decoded(value, affine, max_code)),
                    affine.scale / 2 + rounding);
        // The ends of the range have the first code and the last.
        const auto [low, high] = std::minmax_element(x.begin(), x.end());
        EXPECT_EQ(nearest_code(*low, affine, inverse_scale(affine), max_code), 0);
        EXPECT_EQ(nearest_code(*high, affine, inverse_scale(affine), max_code), max_code);
      }
}

TYPED_TEST(AffineCodes, AreTheNearestOfWhatIsStored) {
  using Real = TypeParam;
  const Real max_code = 7;
  for (const double offset : {0.0, 3000.0})  // half precision moves 3000 by up to 1
    for (unsigned seed = 0; seed < 20; ++seed) {
      const Group<Real> x = random_group<Real>(64, offset, 3, seed);
      const Affine<Real> affine = fit(x, max_code, 16);
      EXPECT_EQ(affine.scale, static_cast<Real>(Eigen::half(static_cast<float>(affine.scale))));
      EXPECT_EQ(affine.zero, static_cast<Real>(Eigen::half(static_cast<float>(affine.zero))));
      for (const Real value : x) {
        Real smallest = std::numeric_limits<Real>::infinity();
        for (Real code = 0; code <= max_code; ++code)
          smallest = std::min(smallest, std::abs(value - (affine.scale * code + affine.zero)));
        EXPECT_NEAR(std::abs(value - decoded(value, affine, max_code)), smallest,
                    1e-6 * (1 + offset));
      }
    }
}

TYPED_TEST(AffineCodes, TiesGoToEven) {
  using Real = TypeParam;
  const Affine<Real> affine = {2, -1};
  const auto code = [&](Real x) { return nearest_code(x, affine, inverse_scale(affine), Real(7)); };
  EXPECT_EQ(code(0), 0);
  EXPECT_EQ(code(2), 2);
  EXPECT_EQ(code(4), 2);
  EXPECT_EQ(code(6), 4);
  EXPECT_EQ(code(-100), 0);
  EXPECT_EQ(code(100), 7);
}

TYPED_TEST(AffineCodes, ConstantGroupsReadBackAsStored) {
  using Real = TypeParam;
  for (const ScaleFit way : {ScaleFit::min_max, ScaleFit::half_quadratic})
    for (const int scale_bits : {16, 32})
      for (const double constant : {0.0, -2.5, 0.1, 1e-6, 60000.0}) {
        const Real x = static_cast<Real>(constant);
        const Affine<Real> affine = fit(Group<Real>(32, x), Real(3), scale_bits, way);
        // Half precision can miss the constant, and then a step that reaches it is an option.
        const Real reached = decoded(x, affine, Real(3));
        EXPECT_LE(std::abs(reached - x), std::abs(as_stored(x, scale_bits) - x));
        if (as_stored(x, scale_bits) == x) {
          EXPECT_EQ(affine.scale, 0);
          EXPECT_EQ(reached, x);
        }
      }
}

TYPED_TEST(AffineCodes, AreFiniteForEveryRange) {
  using Real = TypeParam;
  const double tiny = std::numeric_limits<float>::denorm_min();
  const double least = std::numeric_limits<Real>::denorm_min();
  for (const ScaleFit way : {ScaleFit::min_max, ScaleFit::half_quadratic})
    for (const int scale_bits : {16, 32})
      for (const double low : {-65504.0, -1.0, 0.0, 1e-30})
        for (const double range :
             {least, tiny, 3 * tiny, 1e-41, 1e-40, 1e-38, 1e-30, 1e-8, 6e-8, 1e-4, 1.0, 65504.0}) {
          const Group<Real> x = {static_cast<Real>(low), static_cast<Real>(low + range / 3),
                                 static_cast<Real>(low + range)};
          const Affine<Real> affine = fit(x, Real(3), scale_bits, way);
          for (const Real value : x) {
            const Real code = nearest_code(value, affine, inverse_scale(affine), Real(3));
            EXPECT_TRUE(code >= 0 && code <= 3) << code << ": low " << low << ", range " << range;
            EXPECT_LE(std::abs(decoded(value, affine, Real(3)) - value),
                      range + std::abs(low) / 1024 + 1e-7)
                << "low " << low << ", range " << range;
          }
        }
}

TYPED_TEST(AffineCodes, StayWithinWhatStorageHolds) {
  using Real = TypeParam;
  const Group<Real> x = {Real(-1e6), 0, Real(1e6)};  // feedback can push a channel that far
  const Affine<Real> affine = fit(x, Real(3), 16);
  EXPECT_EQ(decoded(x.front(), affine, Real(3)), -65504);
  EXPECT_NEAR(decoded(x.back(), affine, Real(3)), 65504, 100);
  for (const Real sign : {Real(1), Real(-1)}) {  // all of the group, too
    const Group<Real> beyond = {sign * Real(1e6), sign * Real(2e6)};
    for (const Real number : beyond)
      EXPECT_EQ(decoded(number, fit(beyond, Real(3), 16), Real(3)), sign * 65504);
  }
}

/// HQQ as its authors write it (Badri & Shaji 2023): the zero point counts in codes, W_q = W / s +
/// z. Only that -z s, what is stored, is rounded to single precision after every step.
Affine<double> reference_hqq(const Group<double>& x, double max_code) {
  const Eigen::ArrayXd W = Eigen::Map<const Eigen::ArrayXd>(x.data(), static_cast<Index>(x.size()));
  const double stored_low = static_cast<float>(W.minCoeff());
  const double scale = static_cast<float>((W.maxCoeff() - stored_low) / max_code);
  double zero = -stored_low / scale, beta = 10;
  double best_zero = zero, best_error = std::numeric_limits<double>::infinity();
  for (int iteration = 0; iteration < 20; ++iteration, beta *= 1.01) {
    const Eigen::ArrayXd W_q = (W / scale + zero)
                                   .unaryExpr([](double v) { return std::nearbyint(v); })
                                   .max(0)
                                   .min(max_code);
    const Eigen::ArrayXd difference = W - scale * (W_q - zero);
    const double error = difference.abs().mean();
    if (error >= best_error) break;
    best_error = error;
    best_zero = zero;
    const Eigen::ArrayXd shrunk = difference.abs() - difference.abs().pow(0.7 - 1) / beta;
    const Eigen::ArrayXd W_e = (difference == 0).select(0, difference.sign() * shrunk.max(0));
    zero = (W_q - (W - W_e) / scale).mean();
    zero = -static_cast<double>(static_cast<float>(-zero * scale)) / scale;
  }
  return {scale, -best_zero * scale};
}

TEST(HalfQuadratic, AgreesWithTheReference) {
  int refined = 0;
  for (const double max_code : {3.0, 7.0, 15.0})
    for (unsigned seed = 0; seed < 50; ++seed) {
      // An odd number: with an even one the mean error is flat around its minimum, and the last
      // digit decides when to stop.
      const Group<double> x = random_group<double>(33, 1, 2, seed);
      const Affine<double> expected = reference_hqq(x, max_code);
      const Affine<double> affine = fit(x, max_code, 32, ScaleFit::half_quadratic);
      EXPECT_NEAR(affine.scale, expected.scale, 1e-12 * expected.scale) << "seed " << seed;
      EXPECT_NEAR(affine.zero, expected.zero, 1e-6 * expected.scale) << "seed " << seed;
      refined += affine.zero != fit(x, max_code, 32).zero;
    }
  EXPECT_GE(refined, 75);  // of 150
}

TYPED_TEST(AffineCodes, HalfQuadraticIsNeverWorseThanMinMax) {
  using Real = TypeParam;
  for (const int scale_bits : {16, 32})
    for (const Real max_code : {Real(3), Real(7), Real(15), Real(255)})
      for (unsigned seed = 0; seed < 50; ++seed) {
        const Group<Real> x = random_group<Real>(32, 5, 2, seed);
        const Affine<Real> min_max = fit(x, max_code, scale_bits);
        const Affine<Real> refined = fit(x, max_code, scale_bits, ScaleFit::half_quadratic);
        EXPECT_EQ(refined.scale, min_max.scale);
        EXPECT_LE(mean_error(x, refined, max_code), mean_error(x, min_max, max_code) * (1 + 1e-6));
      }
}

}  // namespace
}  // namespace squat::testing
