#include "oscar_codec.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <squat/detail/math/hadamard.hpp>
#include <squat/error.hpp>
#include <vector>

namespace squat_llama {
namespace {

constexpr int kMaxCode = 3;

bool is_power_of_two(Eigen::Index number) { return number > 0 && (number & (number - 1)) == 0; }

Eigen::Index reversed_bits(Eigen::Index number, Eigen::Index count) {
  Eigen::Index reversed = 0;
  for (Eigen::Index bit = 1; bit < count; bit *= 2)
    reversed = 2 * reversed + ((number & bit) != 0 ? 1 : 0);
  return reversed;
}

}  // namespace

OscarCodec::OscarCodec(int dim, double kept)
    : dim_(dim), kept_(std::clamp(static_cast<int>(kept * dim), 0, dim - 1)) {
  squat::require(is_power_of_two(dim) && dim >= 8,
                 "oscar needs heads of a power of two channels, at least 8, not ", dim);
}

void OscarCodec::encode(const float* rotated, std::uint8_t* row) const {
  std::vector<float> magnitudes(rotated, rotated + dim_);
  for (float& x : magnitudes) x = std::abs(x);
  std::nth_element(magnitudes.begin(), magnitudes.begin() + kept_, magnitudes.end());
  const float most = magnitudes[static_cast<std::size_t>(kept_)];
  const auto clipped = [&](int i) { return std::clamp(rotated[i], -most, most); };
  std::uint8_t* codes = row + dim_ / group() * 4;
  std::memset(codes, 0, static_cast<std::size_t>(dim_ / 4));
  for (int first = 0; first < dim_; first += group(), row += 4) {
    float low = clipped(first), high = low;
    for (int i = first; i < first + group(); ++i) {
      low = std::min(low, clipped(i));
      high = std::max(high, clipped(i));
    }
    const Eigen::half stored[] = {Eigen::half((high - low) / kMaxCode), Eigen::half(low)};
    std::memcpy(row, stored, sizeof stored);
    const float scale = static_cast<float>(stored[0]), minimum = static_cast<float>(stored[1]);
    for (int i = first; i < first + group(); ++i) {
      const float steps = scale > 0 ? (clipped(i) - minimum) / scale : 0;
      const int code = std::clamp(static_cast<int>(std::lround(steps)), 0, kMaxCode);
      codes[i / 4] = static_cast<std::uint8_t>(codes[i / 4] | code << 2 * (i % 4));
    }
  }
}

void OscarCodec::decode(const std::uint8_t* row, float* rotated) const {
  const std::uint8_t* codes = row + dim_ / group() * 4;
  for (int first = 0; first < dim_; first += group(), row += 4) {
    Eigen::half stored[2];
    std::memcpy(stored, row, sizeof stored);
    for (int i = first; i < first + group(); ++i)
      rotated[i] = static_cast<float>(stored[1]) +
                   static_cast<float>(stored[0]) *
                       static_cast<float>(codes[i / 4] >> 2 * (i % 4) & kMaxCode);
  }
}

squat::Matrix<float> oscar_rotation(const squat::Matrix<double>& moment) {
  const Eigen::Index dim = moment.rows();
  squat::require(is_power_of_two(dim), "oscar rotates heads of a power of two channels, not ", dim);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(moment);
  squat::Matrix<double> mixed = eigen.eigenvectors();  // by ascending eigenvalue
  for (Eigen::Index row = 0; row < dim; ++row) squat::detail::hadamard(mixed.row(row).data(), dim);
  squat::Matrix<float> rotation(dim, dim);
  for (Eigen::Index i = 0; i < dim; ++i)
    rotation.col(reversed_bits(i, dim)) = mixed.col(dim - 1 - i).cast<float>();
  return rotation;
}

}  // namespace squat_llama
