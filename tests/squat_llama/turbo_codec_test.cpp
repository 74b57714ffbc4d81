// Rotated Lloyd-Max codes.
#include "turbo_codec.hpp"

#include <gtest/gtest.h>

#include <random>

namespace squat_llama {
namespace {

TEST(LloydMax, LevelsOfTwoBits) {  // Max (1960), table I
  const auto max_code = lloyd_max_levels(2);
  ASSERT_EQ(max_code.size(), 4u);
  EXPECT_NEAR(max_code[2], 0.4528, 1e-4);
  EXPECT_NEAR(max_code[3], 1.510, 1e-3);
  EXPECT_NEAR(max_code[0], -max_code[3], 1e-6);
}

class TurboCodecTest : public testing::TestWithParam<int> {};

TEST_P(TurboCodecTest, DistortionIsThatOfNormalVariables) {
  const int bits = GetParam();
  const double expected = bits == 2 ? 0.1175 : bits == 3 ? 0.03454 : 0.009497;  // Max, table I
  constexpr int dim = 128, rows = 400;
  const TurboCodec codec(dim, bits);
  EXPECT_EQ(codec.row_bytes(), dim * bits / 8 + 2);

  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.3f, 2.0f);
  double error = 0, energy = 0;
  std::vector<std::uint8_t> code(static_cast<std::size_t>(codec.row_bytes()));
  Eigen::RowVectorXf decoded(dim);
  for (int row = 0; row < rows; ++row) {
    const Eigen::RowVectorXf x =
        Eigen::RowVectorXf::NullaryExpr(dim, [&] { return normal(random); });
    const Eigen::RowVectorXf rotated = x * codec.rotation();
    codec.encode(rotated.data(), code.data());
    codec.decode(code.data(), decoded.data());
    error += (decoded * codec.rotation().transpose() - x).squaredNorm();
    energy += x.squaredNorm();
  }
  EXPECT_NEAR(error / energy, expected, 0.05 * expected);
}

INSTANTIATE_TEST_SUITE_P(Bits, TurboCodecTest, testing::Values(2, 3, 4));

TEST(TurboCodec, ZeroStaysZero) {
  const TurboCodec codec(64, 3);
  std::vector<std::uint8_t> code(static_cast<std::size_t>(codec.row_bytes()));
  std::vector<float> x(64, 0.0f), decoded(64, 1.0f);
  codec.encode(x.data(), code.data());
  codec.decode(code.data(), decoded.data());
  EXPECT_EQ(decoded, x);
}

}  // namespace
}  // namespace squat_llama
