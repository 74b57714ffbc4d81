// Clipped codes of two bits with a scale and a minimum, as OSCAR has them (arXiv 2605.17757).
#pragma once

#include <cstdint>
#include <squat/matrix.hpp>

namespace squat_llama {

/// Encodes rotated vectors of `dim` channels, a power of two, in 2 bits a channel; 128 channels, or
/// all if there are fewer, share a scale and a minimum in half precision.
class OscarCodec {
 public:
  /// Magnitudes above the one that `kept` (0 to 1) of a vector's channels are below are clipped to
  /// it.
  OscarCodec(int dim, double kept);

  int row_bytes() const { return dim_ / 4 + dim_ / group() * 4; }

  /// Encodes one rotated vector [dim] to row_bytes() bytes.
  void encode(const float* rotated, std::uint8_t* row) const;
  /// The rotated vector again, rounded.
  void decode(const std::uint8_t* row, float* rotated) const;

 private:
  int group() const { return dim_ < 128 ? dim_ : 128; }

  int dim_;
  int kept_;  ///< which magnitude is the largest that stays, counted from the smallest
};

/// U H P [dim, dim]: U the eigenvectors of `moment` [dim, dim], H a Hadamard matrix and P the
/// permutation by reversed bits, which puts neighbours into different groups. Rows times this are
/// rotated.
squat::Matrix<float> oscar_rotation(const squat::Matrix<double>& moment);

}  // namespace squat_llama
