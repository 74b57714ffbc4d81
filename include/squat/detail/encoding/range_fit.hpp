// Scales and zero points from the range of a group.
#pragma once

#include <squat/detail/records/affine.hpp>
#include <squat/detail/records/layer_settings.hpp>

namespace squat::detail {

/// Affine with a scale of 8 bits around `midpoint`: the nearest scale, or the least that lets the
/// midpoint be stored. What lies far from `expected` is coarser, never clipped. Not inline, so that
/// no caller's instruction set changes its roundings.
template <class Real>
SQUAT_NOINLINE Affine<Real> stored_affine8(Real ideal_scale, Real midpoint, Real max_code,
                                           Real expected) {
  const Real distance = std::abs(midpoint - expected);
  const Real reach = max_code * (Real(largest_midpoint) / midpoint_steps);
  const Real wide = ideal_scale * static_cast<Real>(scale_margin(static_cast<float>(max_code)));
  int byte = scale_to_byte(static_cast<float>(std::max(wide, distance * (1 / reach))));
  Real scale = static_cast<Real>(scale_from_byte(byte));
  if (scale * reach < distance && byte < largest_scale_byte)
    scale = static_cast<Real>(scale_from_byte(++byte));
  return {scale, zero_of_midpoint(midpoint, scale, max_code, expected)};
}

/// Affine of the range [low, high] as it is stored. `expected` is where the midpoint of the range
/// is expected; it enters where scales have 8 bits.
template <class Real>
SQUAT_NOINLINE Affine<Real> stored_range(Real low, Real high, Real max_code, int scale_bits,
                                         Real expected) {
  if (scale_bits == 8)
    return stored_affine8((high - low) * (1 / max_code), (low + high) * Real(0.5), max_code,
                          expected);
  const Real zero = as_stored(low, scale_bits);
  const Real scale = as_stored(std::max((high - zero) / max_code, Real(0)), scale_bits);
  // So small a range counts as constant: the inverse of a subnormal scale is infinite.
  return {scale < Real(std::numeric_limits<float>::min()) ? Real(0) : scale, zero};
}

/// Min-max: the range of x[0..count) over `max_code` steps.
template <class Real>
Affine<Real> min_max(const Real* x, Index count, Real max_code, int scale_bits, Real expected = 0) {
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
  return stored_range(low, high, max_code, scale_bits, expected);
}

/// Half-quadratic quantization (Badri & Shaji, "Half-Quadratic Quantization of Large Machine
/// Learning Models", 2023): min-max fixes the scale, then the zero point descends on sum |x -
/// x_hat|^p, p = 0.7, by splitting: the residual is shrunk, the zero is the mean of what remains.
/// Stops when the mean absolute error no longer falls; the best zero seen is returned. As published
/// by how much residuals shrink has a size of its own: x counts in `unit`.
template <class Real>
Affine<Real> half_quadratic(const Real* x, Index count, Real max_code, int scale_bits,
                            Real expected = 0, Real unit = 1) {
  constexpr int iterations = 20;
  constexpr Real p = Real(0.7), growth = Real(1.01);
  Real beta = 10;
  Affine<Real> best = min_max(x, count, max_code, scale_bits, expected);
  if (best.scale == 0) return best;
  const Real inverse = inverse_scale(best);
  Real best_error = std::numeric_limits<Real>::infinity();
  Affine<Real> current = best;
  for (int iteration = 0; iteration < iterations; ++iteration) {
    Real error = 0, zero = 0;
    for (Index t = 0; t < count; ++t) {
      const Real unshifted =
          rounded(current.scale * nearest_code(x[t], current, inverse, max_code));
      const Real residual = x[t] - (unshifted + current.zero);
      const Real size = std::abs(residual);
      error += size;
      const Real shrunk =
          size > 0 ? std::max(size - std::pow(size * unit, p - 1) / (beta * unit), Real(0))
                   : Real(0);
      zero += x[t] - std::copysign(shrunk, residual) - unshifted;
    }
    if (!(error < best_error)) break;
    best_error = error;
    best = current;
    zero /= static_cast<Real>(count);
    current.zero = scale_bits == 8
                       ? zero_of_midpoint(zero + rounded(current.scale * (max_code / 2)),
                                          current.scale, max_code, expected)
                       : as_stored(zero, scale_bits);
    beta *= growth;
  }
  return best;
}

/// For ScaleFit::min_max and half_quadratic; the others choose codes too.
template <class Real>
Affine<Real> fit_affine(const Real* x, Index count, const GroupFormat& format, Real expected = 0) {
  const Real max_code = static_cast<Real>((1 << format.bits) - 1);
  return format.fit == ScaleFit::half_quadratic
             ? half_quadratic(x, count, max_code, format.scale_bits, expected,
                              static_cast<Real>(format.unit))
             : min_max(x, count, max_code, format.scale_bits, expected);
}

}  // namespace squat::detail
