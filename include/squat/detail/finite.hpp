// Whether numbers are finite and within limits, by their bits. A program that is compiled with
// -ffast-math has no other way to tell: its compiler takes every number for finite.
#pragma once

#include <cstring>
#include <limits>
#include <squat/matrix.hpp>

namespace squat::detail {

template <class Scalar>
using BitsOf =
    std::conditional_t<sizeof(Scalar) == 8, std::uint64_t,
                       std::conditional_t<sizeof(Scalar) == 4, std::uint32_t, std::uint16_t>>;

/// The bits of |x|, which ascend as magnitudes do: infinity comes behind all numbers, and what is
/// no number behind infinity. By reference, since a compiler may take an argument for finite.
template <class Scalar>
BitsOf<Scalar> magnitude_bits(const Scalar& x) {
  BitsOf<Scalar> bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<BitsOf<Scalar>>(bits & (std::numeric_limits<BitsOf<Scalar>>::max() >> 1));
}

/// Those of the largest number that is at most `limit`, which is positive and finite.
template <class Scalar>
BitsOf<Scalar> limit_bits(double limit) {
  const Scalar largest = std::numeric_limits<Scalar>::max();
  if (limit >= static_cast<double>(largest)) return magnitude_bits(largest);
  const Scalar nearest = static_cast<Scalar>(limit);
  const bool is_above = static_cast<double>(nearest) > limit;
  return static_cast<BitsOf<Scalar>>(magnitude_bits(nearest) - is_above);
}

template <class Scalar>
bool is_finite(const Scalar& x) {
  return magnitude_bits(x) <= magnitude_bits(std::numeric_limits<Scalar>::max());
}

template <class Scalar>
bool is_minus_infinity(const Scalar& x) {
  constexpr BitsOf<Scalar> sign = std::numeric_limits<BitsOf<Scalar>>::max() / 2 + 1;
  BitsOf<Scalar> bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits == magnitude_bits(std::numeric_limits<Scalar>::max()) + 1 + sign;
}

/// Whether all of x[0..count) are finite and at most `limit` in magnitude.
template <class Scalar>
bool are_within(const Scalar* x, Index count, double limit) {
  using Bits = BitsOf<Scalar>;
  constexpr Index lanes = 64 / sizeof(Scalar);  // by name, so that every -O2 makes vectors of them
  const Bits most = limit_bits<Scalar>(limit);
  // A difference has the highest bit where a magnitude is beyond the limit: neither has it.
  Bits beyond[lanes] = {};
  Index i = 0;
  for (; i + lanes <= count; i += lanes)
    for (Index lane = 0; lane < lanes; ++lane)
      beyond[lane] |= static_cast<Bits>(most - magnitude_bits(x[i + lane]));
  for (; i < count; ++i) beyond[0] |= static_cast<Bits>(most - magnitude_bits(x[i]));
  Bits any = 0;
  for (const Bits one : beyond) any |= one;
  return any <= std::numeric_limits<Bits>::max() / 2;
}

template <class Derived>
bool all_finite(const Eigen::PlainObjectBase<Derived>& matrix) {
  return are_within(matrix.data(), matrix.size(), std::numeric_limits<double>::max());
}

}  // namespace squat::detail
