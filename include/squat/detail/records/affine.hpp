// Affine codes: x is stored as an integer code and read back as scale * code + zero.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <squat/config.hpp>
#include <squat/detail/math/reproducible.hpp>

#if defined(__GNUC__) || defined(__clang__)
#define SQUAT_NOINLINE __attribute__((noinline))
#else
#define SQUAT_NOINLINE
#endif

namespace squat::detail {

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
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || FLT_EVAL_METHOD != 0
  // Here a compiler cancels what is added, or registers hold more digits than Real has.
  return std::nearbyint(x);
#else
  // Adding and taking away 1.5 * 2^(mantissa bits) rounds, and unlike std::nearbyint is one vector
  // addition on every instruction set.
  constexpr Real magic = std::is_same_v<Real, double> ? Real(6755399441055744.0) : Real(12582912.0);
  return (rounded(x) + magic) - magic;
#endif
}

/// A scale of 8 bits has 5 bits of exponent and 3 of mantissa: 8 steps an octave from 2^-14 to
/// 61440, steps of 2^-17 below, in the units of its record (RecordUnits).
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

/// Beside a scale of 8 bits the midpoint of the range is stored, in 8 bits too: its distance from
/// what the group is expected to lie around, in 32nds of the range.
inline constexpr int midpoint_steps = 32, largest_midpoint = 127;

/// What a scale of 8 bits is multiplied by before it is rounded. Rounded down, by up to a 16th, it
/// would clip, and so would a midpoint that is half a 32nd of the range off: less than a step of
/// few max_code, but several of many, which a coarser step costs less than.
inline float scale_margin(float max_code) { return max_code < 63 ? 1.0f : 1.0625f * 32 / 31; }

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

/// The code of x: nearest, ties to even, within [0, max_code]. Here and wherever x is held within
/// limits, x comes last: of two numbers one of which is none, std::min and std::max take the first.
template <class Real>
Real nearest_code(Real x, const Affine<Real>& affine, Real inverse_scale, Real max_code) {
  // Double is what results are compared in across implementations, so it divides as they do.
  Real code;
  if constexpr (std::is_same_v<Real, double>)
    code = affine.scale == 0 ? 0 : (x - affine.zero) / affine.scale;
  else
    code = (x - affine.zero) * inverse_scale;
  return nearest_integer(std::min(max_code, std::max(Real(0), code)));
}

template <class Real>
Real inverse_scale(const Affine<Real>& affine) {
  return affine.scale == 0 ? Real(0) : Real(1) / affine.scale;
}

/// With a scale of 8 bits: the zero point that comes with the stored midpoint nearest to
/// `midpoint`.
template <class Real>
Real zero_of_midpoint(Real midpoint, Real scale, Real max_code, Real expected) {
  if (scale == 0) return expected;
  const Real limit = largest_midpoint, per_range = midpoint_steps / max_code;
  const Real steps = nearest_integer((midpoint - expected) * (1 / scale) * per_range);
  const Real moved =
      rounded(std::min(limit, std::max(-limit, steps)) * (scale * (max_code / midpoint_steps)));
  return expected + moved - rounded(scale * (max_code / 2));
}

/// An affine as stored_affine8() gives it where it is stored: the byte of its scale, and how far
/// the midpoint is from `expected`.
template <class Real>
void store_affine8(const Affine<Real>& affine, Real max_code, Real expected, std::byte* scale,
                   std::byte* midpoint) {
  *scale = static_cast<std::byte>(scale_to_byte(static_cast<float>(affine.scale)));
  Real steps = 0;
  if (affine.scale != 0)
    steps = nearest_integer((affine.zero - expected + rounded(affine.scale * (max_code / 2))) /
                            (affine.scale * (max_code / midpoint_steps)));
  *midpoint = static_cast<std::byte>(static_cast<std::int8_t>(steps));
}

}  // namespace squat::detail
