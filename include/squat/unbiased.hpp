// Scales whose errors average out: grids narrower than the range, without their bias.
#pragma once

#include <squat/affine.hpp>

namespace squat {

/// The sum of eight lanes as vector versions compute it.
template <class Real>
Real sum_lanes(const Real lanes[8]) {
  return ((lanes[0] + lanes[2]) + (lanes[1] + lanes[3])) +
         ((lanes[4] + lanes[6]) + (lanes[5] + lanes[7]));
}

/// The code of x on a grid around zero.
template <class Real>
Real grid_code(Real x, Real inverse_step, Real middle, Real levels) {
  return nearest_integer(std::min(levels, std::max(Real(0), x * inverse_step + middle)));
}

/// An affine as it is stored, and how x turns into its codes:
/// code = grid_code(x - shift, inverse, origin, levels).
template <class Real>
struct CodeGrid : Affine<Real> {
  Real shift;
  Real inverse;
  Real origin;
};

/// The codes are those that read back nearest to x.
template <class Real>
CodeGrid<Real> nearest_grid(const Affine<Real>& affine) {
  return {affine, affine.zero, inverse_scale(affine), 0};
}

/// The step of an evenly spaced grid of 2^bits levels around zero that suits a normal distribution
/// best, in standard deviations (Max, "Quantizing for minimum distortion", 1960, table II; beyond 5
/// bits the same trend).
inline float normal_step(int bits) {
  constexpr float steps[] = {1.5958f, 0.9957f, 0.586f, 0.3352f, 0.1881f, 0.1041f, 0.0569f, 0.0308f};
  return steps[bits - 1];
}

/// How many steps symmetric_codes() tries.
inline constexpr int symmetric_steps = 4;

/// A scale as it is stored; one below zero, which sums beyond what Real holds can give, as zero.
template <class Real>
SQUAT_NOINLINE Real stored_scale(Real scale, int scale_bits) {
  scale = std::max(scale, Real(0));
  if (scale_bits == 8)
    return static_cast<Real>(scale_from_byte(scale_to_byte(static_cast<float>(scale))));
  return as_stored(scale, scale_bits);
}

/// ValueGrid::symmetric: codes of x[0..count) and their grid; the zero point, which nobody stores,
/// is -levels / 2 * scale, and 0 here. Of a few steps that one is taken whose codes c, counted from
/// the middle, are nearest to x in angle; the scale <x, x> / <c, x> makes the error orthogonal to
/// x, as RaBitQ does (Gao & Long 2024, eq. 12): it has no bias along x. What storing changes of the
/// scale, the step follows. `count` is a multiple of 8. Sums go eight lanes at a time, so that
/// vector versions compute the same.
template <class Real>
CodeGrid<Real> symmetric_codes(const Real* x, Index count, int bits, int scale_bits,
                               std::uint8_t* codes) {
  const Real levels = static_cast<Real>((1 << bits) - 1), middle = levels / 2;
  Real lanes[8] = {}, top = 0;
  for (Index i = 0; i < count; ++i) {
    lanes[i % 8] += x[i] * x[i];
    top = std::max(top, std::abs(x[i]));
  }
  const Real energy = sum_lanes(lanes);
  if (!(energy > std::numeric_limits<float>::min())) {
    std::fill_n(codes, count, std::uint8_t{0});
    return {};
  }
  const Real step =
      static_cast<Real>(normal_step(bits)) * std::sqrt(energy / static_cast<Real>(count));
  // Steps around that of a normal distribution, and the one that clips nothing.
  const Real steps[symmetric_steps] = {step, step * Real(0.86), step * Real(1.16),
                                       2 * top / levels};
  Real best = 0, best_step = step, best_product = 1;
  for (const Real candidate : steps) {
    const Real inverse = 1 / candidate;
    Real products[8] = {}, squares[8] = {};
    for (Index i = 0; i < count; ++i) {
      const Real size = std::abs(x[i]);
      const Real code = static_cast<Real>(static_cast<int>(std::min(middle, size * inverse))) +
                        Real(0.5);  // of that size, counted from the middle
      products[i % 8] += code * size;
      squares[i % 8] += code * code;
    }
    const Real product = sum_lanes(products), cosine = product * product / sum_lanes(squares);
    if (cosine > best) {
      best = cosine;
      best_step = candidate;
      best_product = product;
    }
  }
  const Real scale = energy / best_product, stored = stored_scale(scale, scale_bits);
  const Real inverse = stored > 0 ? scale / (best_step * stored) : Real(0);
  for (Index i = 0; i < count; ++i)
    codes[i] = static_cast<std::uint8_t>(grid_code(x[i], inverse, middle, levels));
  return {{stored, 0}, 0, inverse, middle};
}

/// Parts of the range that Backend::unbiased tries for codes of `bits` bits; returns how many.
inline int clipped_parts(int bits, float parts[3]) {
  // Of 64 normal numbers about the best part, half way to it, and all.
  constexpr float narrowest[] = {1.0f, 0.64f, 0.76f, 0.88f};
  parts[0] = 1;
  if (bits == 1 || bits > 4) return 1;
  parts[1] = (1 + narrowest[bits - 1]) / 2;
  parts[2] = narrowest[bits - 1];
  return 3;
}

/// Sums over a group: of x, x^2, codes, codes^2 and x * code, x counted from the middle of its
/// range.
template <class Real>
struct GroupSums {
  Real x, xx, c, cc, xc;
};

/// How near codes are to the group, the square of their correlation but for what all have in
/// common.
template <class Real>
Real closeness(const GroupSums<Real>& sums, Real count) {
  const Real xc = sums.xc - sums.x * sums.c / count, cc = sums.cc - sums.c * sums.c / count;
  return cc > 0 ? xc * xc / cc : Real(0);
}

/// The affine under which the errors of the codes of `sums`, made with `inverse_step` around
/// `middle`, add up to nothing, alone and along x; and the grid that follows it once it is stored.
template <class Real>
SQUAT_NOINLINE CodeGrid<Real> unbiased_grid(const GroupSums<Real>& sums, Real count, Real middle,
                                            Real inverse_step, Real levels, int scale_bits,
                                            Real expected) {
  const Real xc = sums.xc - sums.x * sums.c / count, xx = sums.xx - sums.x * sums.x / count;
  const Real scale = xc > 0 ? xx / xc : Real(0), half = levels / 2;
  const Real wanted = middle + (sums.x - scale * (sums.c - half * count)) / count;
  Affine<Real> affine;
  if (scale_bits == 8) {
    affine = stored_affine8(scale, wanted, levels, expected);
  } else {
    const Real stored = as_stored(scale, scale_bits);
    affine.scale = stored < std::numeric_limits<float>::min() ? Real(0) : stored;
    affine.zero = as_stored(wanted - half * affine.scale, scale_bits);
  }
  // Only what storing changed moves the grid.
  return {affine, middle + (affine.zero + half * affine.scale - wanted),
          affine.scale > 0 ? inverse_step * (scale / affine.scale) : Real(0), half};
}

/// Backend::unbiased: codes of x[0..count) and their affine. Of a few ranges around the middle, the
/// whole and narrower ones, that one is taken whose codes are nearest to x in angle, means taken
/// away. A symmetric_codes() with a zero point.
template <class Real>
CodeGrid<Real> unbiased_codes(const Real* x, Index count, int bits, int scale_bits, Real expected,
                              std::uint8_t* codes) {
  const Real levels = static_cast<Real>((1 << bits) - 1), half = levels / 2;
  const Real limit = static_cast<Real>(largest_storable(scale_bits));
  Real low = x[0], high = x[0];
  for (Index t = 1; t < count; ++t) {
    low = std::min(low, x[t]);
    high = std::max(high, x[t]);
  }
  low = std::min(limit, std::max(-limit, low));
  high = std::min(limit, std::max(-limit, high));
  const Real middle = (low + high) * Real(0.5), step = (high - low) * (1 / levels);
  if (!(step > std::numeric_limits<float>::min())) {
    std::fill_n(codes, count, std::uint8_t{0});
    const Affine<Real> constant = stored_range(low, high, levels, scale_bits, expected);
    const Real inverse = inverse_scale(constant);  // not 0 where the middle had to be reached
    for (Index t = 0; t < count; ++t)
      codes[t] = static_cast<std::uint8_t>(nearest_code(x[t], constant, inverse, levels));
    return nearest_grid(constant);
  }
  Real xs[8] = {}, squares[8] = {};
  for (Index t = 0; t < count; ++t) {
    const Real y = x[t] - middle;
    xs[t % 8] += y;
    squares[t % 8] += y * y;
  }
  GroupSums<Real> best{};
  Real best_closeness = -1, best_inverse = 0;
  float parts[3];
  const int candidates = clipped_parts(bits, parts);
  for (int i = 0; i < candidates; ++i) {
    const Real inverse = 1 / (step * static_cast<Real>(parts[i]));
    Real cs[8] = {}, code_squares[8] = {}, products[8] = {};
    for (Index t = 0; t < count; ++t) {
      const Real y = x[t] - middle, code = grid_code(y, inverse, half, levels);
      cs[t % 8] += code;
      code_squares[t % 8] += code * code;
      products[t % 8] += code * y;
    }
    const GroupSums<Real> sums{sum_lanes(xs), sum_lanes(squares), sum_lanes(cs),
                               sum_lanes(code_squares), sum_lanes(products)};
    const Real near = closeness(sums, static_cast<Real>(count));
    if (near > best_closeness) {
      best = sums;
      best_closeness = near;
      best_inverse = inverse;
    }
  }
  const CodeGrid<Real> grid = unbiased_grid(best, static_cast<Real>(count), middle, best_inverse,
                                            levels, scale_bits, expected);
  for (Index t = 0; t < count; ++t)
    codes[t] = static_cast<std::uint8_t>(grid_code(x[t] - grid.shift, grid.inverse, half, levels));
  return grid;
}

/// Codes of x[0..count) and their grid, by config.backend.
template <class Real>
CodeGrid<Real> encode_group(const Real* x, Index count, int bits, const Config& config,
                            Real expected, std::uint8_t* codes) {
  if (config.backend == Backend::unbiased)
    return unbiased_codes(x, count, bits, config.scale_bits, expected, codes);
  const Real levels = static_cast<Real>((1 << bits) - 1);
  const Affine<Real> affine = fit_affine(x, count, levels, config, expected);
  const Real inverse = inverse_scale(affine);
  for (Index i = 0; i < count; ++i)
    codes[i] = static_cast<std::uint8_t>(nearest_code(x[i], affine, inverse, levels));
  return nearest_grid(affine);
}

}  // namespace squat
