#include "turbo_codec.hpp"

#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <squat/error.hpp>

namespace squat_llama {
namespace {

constexpr double kSqrtTwo = 1.4142135623730951;

double density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * std::acos(-1.0)); }
double distribution(double x) { return 0.5 * std::erfc(-x / kSqrtTwo); }

/// A rotation drawn uniformly: the Q of a normal matrix, signs as in R > 0.
squat::Matrix<float> random_rotation(int dim) {
  std::mt19937 random(20240607);
  std::normal_distribution<double> normal;
  const Eigen::MatrixXd drawn =
      Eigen::MatrixXd::NullaryExpr(dim, dim, [&] { return normal(random); });
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(drawn);
  const Eigen::VectorXd signs = qr.matrixQR().diagonal().array().sign();
  return (Eigen::MatrixXd(qr.householderQ()) * signs.asDiagonal()).cast<float>();
}

}  // namespace

std::vector<float> lloyd_max_levels(int bits) {
  const int count = 1 << bits;
  std::vector<double> levels;
  for (int i = 0; i < count; ++i) levels.push_back(6.0 * (i + 0.5) / count - 3);
  for (double change = 1; change > 1e-10;) {
    change = 0;
    double low = -20;
    for (size_t i = 0; i < levels.size(); ++i) {  // each level moves to the mean of its cell
      const double high = i + 1 < levels.size() ? 0.5 * (levels[i] + levels[i + 1]) : 20;
      const double mean = (density(low) - density(high)) / (distribution(high) - distribution(low));
      change = std::max(change, std::abs(mean - levels[i]));
      levels[i] = mean;
      low = high;
    }
  }
  return {levels.begin(), levels.end()};
}

TurboCodec::TurboCodec(int dim, int bits)
    : dim_(dim), bits_(bits), levels_(lloyd_max_levels(bits)), rotation_(random_rotation(dim)) {
  squat::require(dim % 8 == 0, "turbo needs heads of a multiple of 8 channels, not ", dim);
  for (size_t i = 0; i + 1 < levels_.size(); ++i) {
    borders_.push_back(0.5f * (levels_[i] + levels_[i + 1]));
  }
}

double TurboCodec::table_bytes() const {
  return static_cast<double>(static_cast<size_t>(rotation_.size()) + levels_.size() +
                             borders_.size()) *
         sizeof(float);
}

void TurboCodec::encode(const float* rotated, std::uint8_t* row) const {
  const Eigen::Map<const Eigen::VectorXf> x(rotated, dim_);
  const Eigen::half norm(x.norm());
  std::memcpy(row + code_bytes(), &norm, sizeof norm);
  const float scale = x.norm() > 0 ? std::sqrt(static_cast<float>(dim_)) / x.norm() : 0;
  std::memset(row, 0, static_cast<size_t>(code_bytes()));
  for (int i = 0, bit = 0; i < dim_; ++i, bit += bits_) {
    const auto above = std::upper_bound(borders_.begin(), borders_.end(), scale * rotated[i]);
    const auto code = static_cast<unsigned>(above - borders_.begin()) << (bit % 8);
    row[bit / 8] = static_cast<std::uint8_t>(row[bit / 8] | code);
    if (bit % 8 + bits_ > 8) row[bit / 8 + 1] = static_cast<std::uint8_t>(code >> 8);
  }
}

void TurboCodec::decode(const std::uint8_t* row, float* rotated) const {
  Eigen::half norm;
  std::memcpy(&norm, row + code_bytes(), sizeof norm);
  const float scale = static_cast<float>(norm) / std::sqrt(static_cast<float>(dim_));
  const unsigned mask = (1u << bits_) - 1;
  for (int i = 0, bit = 0; i < dim_; ++i, bit += bits_) {
    unsigned code = static_cast<unsigned>(row[bit / 8]) >> (bit % 8);
    if (bit % 8 + bits_ > 8) code |= static_cast<unsigned>(row[bit / 8 + 1]) << (8 - bit % 8);
    rotated[i] = scale * levels_[code & mask];
  }
}

}  // namespace squat_llama
