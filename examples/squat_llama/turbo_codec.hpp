// Vector quantization by a random rotation, a norm, and Lloyd-Max codes (as TurboQuant does).
#pragma once

#include <cstdint>
#include <squat/matrix.hpp>
#include <vector>

namespace squat_llama {

/// The levels of least squared error for a standard normal variable, in ascending order.
std::vector<float> lloyd_max_levels(int bits);

/// Encodes vectors of `dim` channels in `bits` bits a channel and a half-precision norm. A randomly
/// rotated vector of norm sqrt(dim) looks like `dim` normal variables, whatever it was.
class TurboCodec {
 public:
  TurboCodec(int dim, int bits);

  int code_bytes() const { return dim_ * bits_ / 8; }
  int norm_bytes() const { return 2; }
  int row_bytes() const { return code_bytes() + norm_bytes(); }
  double table_bytes() const;

  /// Rows times this give rotated rows [dim, dim]; its transpose undoes it.
  const squat::Matrix<float>& rotation() const { return rotation_; }

  /// Encodes one rotated vector [dim] to row_bytes() bytes.
  void encode(const float* rotated, std::uint8_t* row) const;
  /// The rotated vector again, rounded.
  void decode(const std::uint8_t* row, float* rotated) const;

 private:
  int dim_;
  int bits_;
  std::vector<float> levels_;
  std::vector<float> borders_;  ///< halfway between levels
  squat::Matrix<float> rotation_;
};

}  // namespace squat_llama
