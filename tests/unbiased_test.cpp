// Scales without bias, and scales of 8 bits.
#include <gtest/gtest.h>

#include <squat/detail/encoding/unbiased.hpp>
#include <squat/detail/records/affine_table.hpp>
#include <vector>

#include "random_matrix.hpp"

namespace squat::testing {

using namespace detail;
namespace {

using Codes = std::vector<std::uint8_t>;

TEST(ScaleOf8Bits, EveryByteComesBack) {
  for (int byte = 0; byte <= largest_scale_byte; ++byte) {
    EXPECT_EQ(scale_to_byte(scale_from_byte(byte)), byte);
    if (byte > 0) {
      EXPECT_GT(scale_from_byte(byte), scale_from_byte(byte - 1));
    }
  }
  EXPECT_EQ(scale_from_byte(largest_scale_byte), 61440.0f);
  EXPECT_EQ(scale_to_byte(1e30f), largest_scale_byte);
  EXPECT_EQ(scale_to_byte(0.0f), 0);
}

TEST(ScaleOf8Bits, IsTheNearest) {
  for (float x = 1e-5f; x < 6e4f; x *= 1.013f) {
    const int byte = scale_to_byte(x);
    const float error = std::abs(scale_from_byte(byte) - x);
    for (const int other : {byte - 1, byte + 1})
      if (other >= 0 && other <= largest_scale_byte) {
        EXPECT_LE(error, std::abs(scale_from_byte(other) - x)) << x;
      }
  }
}

TEST(ScaleOf8Bits, NothingIsClippedHoweverFarFromWhatWasExpected) {
  for (const float distance : {0.0f, 0.3f, 3.0f, 50.0f, 4000.0f})
    for (const float spread : {0.0f, 1e-3f, 1.0f, 30.0f})
      for (const int bits : {1, 2, 4, 8}) {
        Matrix<float> x = random_matrix<float>(1, 32, 5) * spread;
        x.array() += distance;
        const float max_code = static_cast<float>((1 << bits) - 1);
        const Affine<float> affine = min_max(x.data(), 32, max_code, 8, -0.2f);
        // The range is met but for rounding: half a step of the scale (an eighth octave), and of
        // the midpoint (a 32nd of the range).
        const float slack = (max_code / 16 + max_code / 32) * affine.scale + 1e-4f;
        EXPECT_LE(affine.zero, x.minCoeff() + slack) << distance << " " << spread << " " << bits;
        EXPECT_GE(affine.zero + max_code * affine.scale, x.maxCoeff() - slack)
            << distance << " " << spread << " " << bits;
      }
}

TEST(ScaleOf8Bits, ClipsNothingOfManyLevels) {
  for (int bits = 6; bits <= 8; ++bits)
    for (unsigned seed = 0; seed < 40; ++seed) {
      const float max_code = static_cast<float>((1 << bits) - 1);
      const Matrix<float> x =
          random_matrix<float>(1, 64, seed) * (1 + 0.05f * static_cast<float>(seed % 20));
      const Affine<float> affine = min_max(x.data(), 64, max_code, 8, 0.3f);
      EXPECT_LE(affine.zero, x.minCoeff());
      EXPECT_GE(affine.zero + max_code * affine.scale, x.maxCoeff());
      Codes codes(64);
      const CodeGrid<float> grid = unbiased_codes(x.data(), 64, bits, 8, 0.3f, codes.data());
      for (Index i = 0; i < 64; ++i)
        EXPECT_NEAR(grid.scale * codes[static_cast<std::size_t>(i)] + grid.zero, x(i),
                    0.6f * grid.scale + 0.003f * (x.maxCoeff() - x.minCoeff()));
    }
}

TEST(AffineTable, KeepsScalesAndMiddlesOf8Bits) {
  for (const int bits : {1, 2, 3, 4, 8})
    for (const float expected : {0.0f, -3.5f, 100.0f}) {
      const float max_code = static_cast<float>((1 << bits) - 1);
      const AffineTable table(8, 8, true), symmetric(8, 8, false);
      EXPECT_EQ(table.bytes(), 16);
      EXPECT_EQ(symmetric.bytes(), 8);
      std::vector<std::byte> record(16);
      const Matrix<float> x = random_matrix<float>(8, 32, static_cast<unsigned>(bits));
      for (Index i = 0; i < 8; ++i) {
        const Affine<float> affine = min_max(x.row(i).data(), 32, max_code, 8, expected);
        table.set(record.data(), i, affine, max_code, expected);
        const Affine<float> read = table.get(record.data(), i, max_code, expected);
        EXPECT_EQ(read.scale, affine.scale);
        EXPECT_EQ(read.zero, affine.zero);
        EXPECT_EQ(symmetric.get(record.data(), i, max_code, 0.0f).zero,
                  affine.scale * max_code / -2);
      }
    }
}

TEST(SymmetricCodes, LeaveAnErrorThatIsOrthogonal) {
  for (const int bits : {1, 2, 3, 4, 8})
    for (const Index count : {8, 32, 64, 512}) {
      const Matrix<double> all = random_matrix(100, count, 7);
      Codes codes(static_cast<std::size_t>(count));
      double along_all = 0;
      for (Index row = 0; row < all.rows(); ++row) {
        const Eigen::VectorXd x = all.row(row);
        const double scale = symmetric_codes(x.data(), count, bits, 32, codes.data()).scale;
        double along = 0;
        for (Index i = 0; i < count; ++i) {
          const double code = codes[static_cast<std::size_t>(i)] - ((1 << bits) - 1) / 2.0;
          along += (scale * code - x(i)) * x(i);
        }
        // A number half way between two codes may have the other one where the step is chosen.
        EXPECT_LE(std::abs(along), 1e-4 * x.squaredNorm() + scale * x.cwiseAbs().maxCoeff());
        along_all += along;
      }
      EXPECT_NEAR(along_all, 0, 2e-4 * all.squaredNorm()) << bits << " bits, " << count;
    }
  const std::vector<float> zeros(8, 0.0f);
  Codes codes(8, 9);
  EXPECT_EQ(symmetric_codes(zeros.data(), 8, 2, 8, codes.data()).scale, 0.0f);
}

/// Mean squared errors of min-max and of unbiased codes of normal numbers.
std::pair<double, double> mean_squared_errors(Index count, int bits, double& bias) {
  double plain = 0, unbiased = 0, along = 0, energy = 0;
  const Matrix<double> all = random_matrix(200, count, 11);
  Codes codes(static_cast<std::size_t>(count));
  for (Index row = 0; row < all.rows(); ++row) {
    Config config;
    config.scale_bits = 32;
    for (const Backend backend : {Backend::quanto, Backend::unbiased}) {
      config.backend = backend;
      const Eigen::VectorXd x = all.row(row).transpose().array() + 3;
      const Affine<double> affine =
          encode_group(x.data(), count, {bits, config.scale_bits, LayerSettings(config).key_fit},
                       0.0, codes.data());
      double sum = 0;
      for (Index i = 0; i < count; ++i) {
        const double error = affine.scale * codes[static_cast<std::size_t>(i)] + affine.zero - x[i];
        (backend == Backend::quanto ? plain : unbiased) += error * error;
        sum += error;
        if (backend == Backend::unbiased) {
          along += error * (x[i] - 3);
          energy += (x[i] - 3) * (x[i] - 3);
        }
      }
      if (backend == Backend::unbiased) {
        // Numbers half way between two codes may have the other one where the scale is found.
        EXPECT_LE(std::abs(sum), 1e-3 * static_cast<double>(count) + 2.02 * affine.scale);
      }
    }
  }
  bias = along / energy;
  return {plain, unbiased};
}

TEST(UnbiasedCodes, HaveNoBiasAndSmallerErrors) {
  for (const int bits : {1, 2, 3, 4})
    for (const Index count : {64, 128}) {
      double bias = 1;
      const auto [plain, unbiased] = mean_squared_errors(count, bits, bias);
      // Where sums are made, codes change at whole units of range_units: 4e-4 with 3 and 4 bits.
      EXPECT_NEAR(bias, 0, 1e-3) << bits;
      EXPECT_LT(unbiased, plain) << bits << " bits, " << count;
    }
}

TEST(UnbiasedCodes, TakeConstants) {
  Config config;
  config.backend = Backend::unbiased;
  for (const int scale_bits : {8, 16, 32})
    for (const float constant : {0.0f, -2.5f, 1000.0f}) {
      config.scale_bits = scale_bits;
      const std::vector<float> x(32, constant);
      Codes codes(32);
      const Affine<float> affine = encode_group(
          x.data(), 32, {3, config.scale_bits, LayerSettings(config).key_fit}, 0.0f, codes.data());
      EXPECT_NEAR(affine.scale * static_cast<float>(codes[5]) + affine.zero, constant,
                  0.02f * std::abs(constant));
    }
}

}  // namespace
}  // namespace squat::testing
