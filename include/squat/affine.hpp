// Affine codes: x is stored as an integer code and read back as scale * code + zero.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <squat/config.hpp>

#if defined(__GNUC__) || defined(__clang__)
#define SQUAT_NOINLINE __attribute__((noinline))
#else
#define SQUAT_NOINLINE
#endif

namespace squat {

/// Scale and zero point of a group, at the precision they are stored in. A scale of 0 marks a group
/// that is one constant; all its codes are 0.
template <class Real>
struct Affine {
  Real scale;
  Real zero;
};

/// Largest magnitude of a key or value that a stored zero point of `scale_bits` bits can hold.
inline double largest_storable(int scale_bits) { return scale_bits == 32 ? 1e18 : 65504.0; }

/// The nearest integer to x, ties to even, for x within the integers that Real holds.
template <class Real>
Real nearest_integer(Real x) {
  // Adding and taking away 1.5 * 2^(mantissa bits) rounds, and unlike std::nearbyint is one vector
  // addition on every instruction set.
  constexpr Real magic = std::is_same_v<Real, double> ? Real(6755399441055744.0) : Real(12582912.0);
  return (x + magic) - magic;
}

/// A scale of 8 bits has 5 bits of exponent and 3 of mantissa: 8 steps an octave from 2^-14 to
/// 61440, steps of 2^-17 below.
inline constexpr int largest_scale_byte = 0xf7;

inline float scale_from_byte(int byte) {
  if (byte < 8) return static_cast<float>(byte) * 0x1p-17f;
  const std::uint32_t bits = static_cast<std::uint32_t>(byte + (112 << 3)) << 20;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return scale;
}

/// The nearest such scale to x >= 0.
inline int scale_to_byte(float x) {
  if (x < 0x1p-14f) return static_cast<int>(nearest_integer(x * 0x1p17f));
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t byte = ((bits + (1u << 19)) >> 20) - (112 << 3);
  return static_cast<int>(std::min(byte, std::uint32_t{largest_scale_byte}));
}

/// Beside a scale of 8 bits the middle of the range is stored, in 8 bits too: its distance from
/// what the group is expected to lie around, in 32nds of the range.
inline constexpr int middle_steps = 32, largest_middle = 127;

/// What a scale of 8 bits is multiplied by before it is rounded. Rounded down, by up to a 16th, it
/// would clip, and so would a middle that is half a 32nd of the range off: less than a step of few
/// levels, but several of many, which a coarser step costs less than.
inline float scale_margin(float levels) { return levels < 63 ? 1.0f : 1.0625f * 32 / 31; }

/// Largest magnitude of a stored scale or zero point of 16 or 32 bits: whatever is quantized, a
/// number that no arithmetic can have kept finite included, is read back finite.
inline float largest_stored(int scale_bits) { return scale_bits == 16 ? 65504.0f : 1e20f; }

/// `x` as it reads back from `scale_bits` bits. Not a number becomes the largest there is.
template <class Real>
Real as_stored(Real x, int scale_bits) {
  const Real most = static_cast<Real>(largest_stored(scale_bits));
  const float single = static_cast<float>(std::max(-most, std::min(most, x)));
  return static_cast<Real>(scale_bits == 16 ? static_cast<float>(Eigen::half(single)) : single);
}

/// A scale or zero point where it is stored, in half or single precision.
inline void store_affine(float value, int scale_bits, std::byte* target) {
  if (scale_bits == 16) {
    const Eigen::half half(value);
    std::memcpy(target, &half, 2);
  } else {
    std::memcpy(target, &value, 4);
  }
}

/// The code of x: nearest, ties to even, within [0, levels]. Here and wherever x is held within
/// limits, x comes last: of two numbers one of which is none, std::min and std::max take the first.
template <class Real>
Real nearest_code(Real x, const Affine<Real>& affine, Real inverse_scale, Real levels) {
  // Double is what results are compared in across implementations, so it divides as they do.
  Real code;
  if constexpr (std::is_same_v<Real, double>)
    code = affine.scale == 0 ? 0 : (x - affine.zero) / affine.scale;
  else
    code = (x - affine.zero) * inverse_scale;
  return nearest_integer(std::min(levels, std::max(Real(0), code)));
}

template <class Real>
Real inverse_scale(const Affine<Real>& affine) {
  return affine.scale == 0 ? Real(0) : Real(1) / affine.scale;
}

/// With a scale of 8 bits: the zero point that comes with the stored middle nearest to `middle`.
template <class Real>
Real zero_of_middle(Real middle, Real scale, Real levels, Real expected) {
  if (scale == 0) return expected;
  const Real limit = largest_middle, per_range = middle_steps / levels;
  const Real steps = nearest_integer((middle - expected) * (1 / scale) * per_range);
  return expected + std::min(limit, std::max(-limit, steps)) * (scale * (levels / middle_steps)) -
         scale * (levels / 2);
}

/// An affine as stored_affine8() gives it where it is stored: the byte of its scale, and how far
/// the middle is from `expected`.
template <class Real>
void store_affine8(const Affine<Real>& affine, Real levels, Real expected, std::byte* scale,
                   std::byte* middle) {
  *scale = static_cast<std::byte>(scale_to_byte(static_cast<float>(affine.scale)));
  Real steps = 0;
  if (affine.scale != 0)
    steps = nearest_integer((affine.zero - expected + affine.scale * (levels / 2)) /
                            (affine.scale * (levels / middle_steps)));
  *middle = static_cast<std::byte>(static_cast<std::int8_t>(steps));
}

/// Affine with a scale of 8 bits around `middle`: the nearest scale, or the least that lets the
/// middle be stored. What lies far from `expected` is coarser, never clipped. Not inline, so that
/// no caller's instruction set changes its roundings.
template <class Real>
SQUAT_NOINLINE Affine<Real> stored_affine8(Real ideal_scale, Real middle, Real levels,
                                           Real expected) {
  const Real distance = std::abs(middle - expected);
  const Real reach = levels * (Real(largest_middle) / middle_steps);
  const Real wide = ideal_scale * static_cast<Real>(scale_margin(static_cast<float>(levels)));
  int byte = scale_to_byte(static_cast<float>(std::max(wide, distance * (1 / reach))));
  Real scale = static_cast<Real>(scale_from_byte(byte));
  if (scale * reach < distance && byte < largest_scale_byte)
    scale = static_cast<Real>(scale_from_byte(++byte));
  return {scale, zero_of_middle(middle, scale, levels, expected)};
}

/// Affine of the range [low, high] as it is stored. `expected` is where the middle of the range is
/// expected; it enters where scales have 8 bits.
template <class Real>
SQUAT_NOINLINE Affine<Real> stored_range(Real low, Real high, Real levels, int scale_bits,
                                         Real expected) {
  if (scale_bits == 8)
    return stored_affine8((high - low) * (1 / levels), (low + high) * Real(0.5), levels, expected);
  const Real zero = as_stored(low, scale_bits);
  const Real scale = as_stored(std::max((high - zero) / levels, Real(0)), scale_bits);
  // So small a range counts as constant: the inverse of a subnormal scale is infinite.
  return {scale < std::numeric_limits<float>::min() ? Real(0) : scale, zero};
}

/// Min-max: the range of x[0..count) over `levels` steps.
template <class Real>
Affine<Real> min_max(const Real* x, Index count, Real levels, int scale_bits, Real expected = 0) {
  Real low = x[0], high = x[0];
  for (Index t = 1; t < count; ++t) {
    low = std::min(low, x[t]);
    high = std::max(high, x[t]);
  }
  // Feedback can push a channel beyond what storage holds, though no key lies there; the limit
  // makes that a large rounding error, which feedback carries on like any other.
  const Real limit = static_cast<Real>(largest_storable(scale_bits));
  low = std::min(limit, std::max(-limit, low));
  high = std::min(limit, std::max(-limit, high));
  return stored_range(low, high, levels, scale_bits, expected);
}

/// Half-quadratic quantization (Badri & Shaji, "Half-Quadratic Quantization of Large Machine
/// Learning Models", 2023): min-max fixes the scale, then the zero point descends on sum |x -
/// x_hat|^p, p = 0.7, by splitting: the residual is shrunk, the zero is the mean of what remains.
/// Stops when the mean absolute error no longer falls; the best zero seen is returned.
template <class Real>
Affine<Real> half_quadratic(const Real* x, Index count, Real levels, int scale_bits,
                            Real expected = 0) {
  constexpr int iterations = 20;
  constexpr Real p = Real(0.7), growth = Real(1.01);
  Real beta = 10;
  Affine<Real> best = min_max(x, count, levels, scale_bits, expected);
  if (best.scale == 0) return best;
  const Real inverse = inverse_scale(best);
  Real best_error = std::numeric_limits<Real>::infinity();
  Affine<Real> current = best;
  for (int iteration = 0; iteration < iterations; ++iteration) {
    Real error = 0, zero = 0;
    for (Index t = 0; t < count; ++t) {
      const Real unshifted = current.scale * nearest_code(x[t], current, inverse, levels);
      const Real residual = x[t] - (unshifted + current.zero);
      const Real size = std::abs(residual);
      error += size;
      const Real shrunk =
          size > 0 ? std::max(size - std::pow(size, p - 1) / beta, Real(0)) : Real(0);
      zero += x[t] - std::copysign(shrunk, residual) - unshifted;
    }
    if (!(error < best_error)) break;
    best_error = error;
    best = current;
    zero /= static_cast<Real>(count);
    current.zero = scale_bits == 8 ? zero_of_middle(zero + current.scale * (levels / 2),
                                                    current.scale, levels, expected)
                                   : as_stored(zero, scale_bits);
    beta *= growth;
  }
  return best;
}

/// Not for Backend::unbiased, which chooses codes too.
template <class Real>
Affine<Real> fit_affine(const Real* x, Index count, Real levels, const Config& config,
                        Real expected = 0) {
  return config.backend == Backend::hqq
             ? half_quadratic(x, count, levels, config.scale_bits, expected)
             : min_max(x, count, levels, config.scale_bits, expected);
}

}  // namespace squat
