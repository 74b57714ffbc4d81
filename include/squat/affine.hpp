// Affine codes: x is stored as an integer code and read back as scale * code + zero.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <squat/config.hpp>

namespace squat {

/// Scale and zero point of a group, at the precision they are stored in. A scale of 0 marks a group
/// that is one constant; all its codes are 0.
template <class Real>
struct Affine {
  Real scale;
  Real zero;
};

/// Largest magnitude of a key or value that a stored zero point of `scale_bits` bits can hold.
inline double largest_storable(int scale_bits) { return scale_bits == 16 ? 65504.0 : 1e18; }

/// `x` as it reads back from `scale_bits` bits.
template <class Real>
Real as_stored(Real x, int scale_bits) {
  const float single = static_cast<float>(x);
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

/// The code of x: nearest, ties to even, within [0, levels].
template <class Real>
Real nearest_code(Real x, const Affine<Real>& affine, Real inverse_scale, Real levels) {
  // Double is what results are compared in across implementations, so it divides as they do.
  Real code;
  if constexpr (std::is_same_v<Real, double>)
    code = affine.scale == 0 ? 0 : (x - affine.zero) / affine.scale;
  else
    code = (x - affine.zero) * inverse_scale;
  code = std::min(std::max(code, Real(0)), levels);
  // Adding and taking away 1.5 * 2^(mantissa bits) rounds to the nearest integer, ties to even, and
  // unlike std::nearbyint is one vector addition on every instruction set.
  constexpr Real magic = std::is_same_v<Real, double> ? Real(6755399441055744.0) : Real(12582912.0);
  return (code + magic) - magic;
}

template <class Real>
Real inverse_scale(const Affine<Real>& affine) {
  return affine.scale == 0 ? Real(0) : Real(1) / affine.scale;
}

/// Min-max: the range of x[0..count) over `levels` steps.
template <class Real>
Affine<Real> min_max(const Real* x, Index count, Real levels, int scale_bits) {
  Real low = x[0], high = x[0];
  for (Index t = 1; t < count; ++t) {
    low = std::min(low, x[t]);
    high = std::max(high, x[t]);
  }
  // Feedback can push a channel beyond what storage holds, though no key lies there; the limit
  // makes that a large rounding error, which feedback carries on like any other.
  const Real limit = static_cast<Real>(largest_storable(scale_bits));
  low = std::min(std::max(low, -limit), limit);
  high = std::min(std::max(high, -limit), limit);
  const Real zero = as_stored(low, scale_bits);
  const Real scale = as_stored(std::max((high - zero) / levels, Real(0)), scale_bits);
  // So small a range counts as constant: the inverse of a subnormal scale is infinite.
  return {scale < std::numeric_limits<float>::min() ? Real(0) : scale, zero};
}

/// Half-quadratic quantization (Badri & Shaji, "Half-Quadratic Quantization of Large Machine
/// Learning Models", 2023): min-max fixes the scale, then the zero point descends on sum |x -
/// x_hat|^p, p = 0.7, by splitting: the residual is shrunk, the zero is the mean of what remains.
/// Stops when the mean absolute error no longer falls; the best zero seen is returned.
template <class Real>
Affine<Real> half_quadratic(const Real* x, Index count, Real levels, int scale_bits) {
  constexpr int iterations = 20;
  constexpr Real p = Real(0.7), growth = Real(1.01);
  Real beta = 10;
  Affine<Real> best = min_max(x, count, levels, scale_bits);
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
    if (error >= best_error) break;
    best_error = error;
    best = current;
    current.zero = as_stored(zero / static_cast<Real>(count), scale_bits);
    beta *= growth;
  }
  return best;
}

template <class Real>
Affine<Real> fit_affine(const Real* x, Index count, Real levels, const Config& config) {
  return config.backend == Backend::hqq ? half_quadratic(x, count, levels, config.scale_bits)
                                        : min_max(x, count, levels, config.scale_bits);
}

}  // namespace squat
