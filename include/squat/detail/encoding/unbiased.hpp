// Scales whose errors average out: grids narrower than the range, without their bias.
#pragma once

#include <squat/detail/encoding/range_fit.hpp>

namespace squat::detail {

/// The sum of eight lanes as vector versions compute it.
template <class Real>
Real sum_lanes(const Real lanes[8]) {
  return ((lanes[0] + lanes[2]) + (lanes[1] + lanes[3])) +
         ((lanes[4] + lanes[6]) + (lanes[5] + lanes[7]));
}

/// The code of x on a grid around zero.
template <class Real>
Real grid_code(Real x, Real inverse_step, Real midpoint, Real max_code) {
  return nearest_integer(
      std::min(max_code, std::max(Real(0), rounded(x * inverse_step) + midpoint)));
}

/// An affine as it is stored, and how x turns into its codes:
/// code = grid_code(x - shift, inverse, origin, max_code).
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

/// The step of an evenly spaced grid of 2^bits max_code around zero that suits a normal
/// distribution best, in standard deviations (Max, "Quantizing for minimum distortion", 1960, table
/// II; beyond 5 bits the same trend).
inline float normal_step(int bits) {
  constexpr float steps[] = {1.5958f, 0.9957f, 0.586f, 0.3352f, 0.1881f, 0.1041f, 0.0569f, 0.0308f};
  return steps[bits - 1];
}

/// How many steps symmetric_codes() tries.
inline constexpr int symmetric_steps = 4;

// What decides about a grid is summed up in integers: x in units of which the largest number has so
// many, and codes by multiplication with an inverse step of 16 bits.
inline constexpr int symmetric_units = 32767;  ///< fills 16 bits
inline constexpr int range_units = 2047;       ///< the squares of 512 numbers add up to 31 bits

/// How many of the 16 bits of an inverse step are behind the point.
constexpr int symmetric_fraction(int bits) { return bits <= 4 ? 8 : 4; }
constexpr int range_fraction(int bits) { return bits <= 4 ? 6 : 2; }

/// A scale as it is stored; one below zero, which sums beyond what Real holds can give, as zero.
template <class Real>
SQUAT_NOINLINE Real stored_scale(Real scale, Real max_code, int scale_bits) {
  scale = std::max(scale, Real(0));
  if (scale_bits == 8) {
    const Real wide = scale * static_cast<Real>(scale_margin(static_cast<float>(max_code)));
    return static_cast<Real>(scale_from_byte(scale_to_byte(static_cast<float>(wide))));
  }
  return as_stored(scale, scale_bits);
}

/// ScaleFit::symmetric: codes of x[0..count), at most 512 numbers, and their grid; the zero point,
/// which nobody stores, is -max_code / 2 * scale, and 0 here. Of a few steps that one is taken
/// whose codes c, counted from the midpoint, are nearest to x in angle; the scale <x, x> / <c, x>
/// makes the error orthogonal to x, as RaBitQ does (Gao & Long 2024, eq. 12): it has no bias along
/// x. What storing changes of the scale, the step follows. `count` is a multiple of 8.
template <class Real>
CodeGrid<Real> symmetric_codes(const Real* x, Index count, int bits, int scale_bits,
                               std::uint8_t* codes) {
  const Real max_code = static_cast<Real>((1 << bits) - 1), midpoint = max_code / 2;
  Real lanes[8] = {}, top = 0;
  for (Index i = 0; i < count; ++i) {
    lanes[i % 8] += rounded(x[i] * x[i]);
    top = std::max(top, std::abs(x[i]));
  }
  const Real energy = sum_lanes(lanes);
  if (!(energy > Real(std::numeric_limits<float>::min()))) {
    std::fill_n(codes, count, std::uint8_t{0});
    return {};
  }
  const Real unit = top * (Real(1) / symmetric_units), inverse_unit = 1 / unit;
  const Real most = symmetric_units;
  std::int32_t sizes[512], sum = 0;
  for (Index i = 0; i < count; ++i) {
    const Real size = std::min(most, std::abs(x[i]) * inverse_unit);
    sum += sizes[i] = static_cast<std::int32_t>(nearest_integer(size));
  }
  const Real step =
      static_cast<Real>(normal_step(bits)) * std::sqrt(energy / static_cast<Real>(count));
  // Steps around that of a normal distribution, and the one that clips nothing.
  const Real steps[symmetric_steps] = {step, step * Real(0.86), step * Real(1.16),
                                       2 * top / max_code};
  const int fraction = symmetric_fraction(bits);
  const Real one = static_cast<Real>(1 << (16 + fraction));
  Real best = 0, best_inverse = 0, best_product = 1;
  for (const Real candidate : steps) {
    const Real rounded = nearest_integer(std::min(Real(65535), unit / candidate * one));
    const auto inverse = static_cast<std::uint32_t>(rounded);
    // The code of x, counted from the midpoint, is its sign times step + 1/2.
    std::int32_t products = 0, squares = 0;
    for (Index i = 0; i < count; ++i) {
      const auto down = static_cast<std::int32_t>(static_cast<std::uint32_t>(sizes[i]) * inverse >>
                                                  16 >> fraction);
      const std::int32_t whole = std::min(down, (1 << bits) / 2 - 1);
      products += whole * sizes[i];
      squares += whole * (whole + 1);
    }
    const Real product = static_cast<Real>(products) * 2 + static_cast<Real>(sum);
    const Real cosine =
        product * product / static_cast<Real>(4 * squares + static_cast<std::int32_t>(count));
    if (cosine > best) {
      best = cosine;
      best_inverse = rounded * (1 / one);
      best_product = product;
    }
  }
  const Real scale = energy / (best_product * (unit * Real(0.5)));
  const Real stored = stored_scale(scale, max_code, scale_bits);
  const Real inverse = stored > 0 ? scale / stored * (best_inverse * inverse_unit) : Real(0);
  for (Index i = 0; i < count; ++i)
    codes[i] = static_cast<std::uint8_t>(grid_code(x[i], inverse, midpoint, max_code));
  return {{stored, 0}, 0, inverse, midpoint};
}

/// The step of ScaleFit::unbiased, inverted: of range_units, with 16 + range_fraction() bits behind
/// the point. Codes of 2 to 4 bits spread over a part of the range, the one that suits `count`
/// normal numbers best: with all of it 64 of them err by 54, 15 or 4 % more (mean square). Not
/// inline, so that no caller's instruction set changes its roundings.
SQUAT_NOINLINE inline std::int16_t inverse_range_step(int bits, Index count) {
  constexpr float parts[] = {1, 0.66f, 0.86f, 0.96f, 1, 1, 1, 1};  // of 64 numbers
  float part = parts[bits - 1];
  if (part < 1)
    part = std::min(1.0f, part - rounded(0.045f * std::log2(static_cast<float>(count) / 64)));
  const float max_code = static_cast<float>((1 << bits) - 1);
  const float one = static_cast<float>(1 << (16 + range_fraction(bits)));
  return static_cast<std::int16_t>(nearest_integer(max_code * one / (2 * range_units * part)));
}

/// Sums over a group: of x, x^2, codes and x * code, both counted from the midpoint, x in units and
/// codes rounded down.
struct GroupSums {
  std::int32_t x, xx, c, xc;
};

/// `product` - a b / count, of sums: what is left once the means are taken away.
template <class Real>
Real without_means(std::int32_t product, std::int32_t a, std::int32_t b, Real inverse_count) {
  return static_cast<Real>(product) -
         rounded(static_cast<Real>(a) * static_cast<Real>(b) * inverse_count);
}

/// The affine under which the errors of the codes of `sums`, made with `inverse_step` around
/// `midpoint`, add up to nothing, alone and along x; and the grid that follows it once it is
/// stored.
template <class Real>
SQUAT_NOINLINE CodeGrid<Real> unbiased_grid(const GroupSums& sums, Real count, Real midpoint,
                                            Real unit, Real inverse_step, Real max_code,
                                            int scale_bits, Real expected) {
  const Real inverse_count = 1 / count, half = max_code / 2;
  const Real xc = without_means(sums.xc, sums.x, sums.c, inverse_count);
  const Real xx = without_means(sums.xx, sums.x, sums.x, inverse_count);
  const Real scale = xc > 0 ? xx / xc * unit : Real(0);
  const Real rest = rounded(static_cast<Real>(sums.x) * unit) -
                    rounded(scale * (static_cast<Real>(sums.c) + rounded(count * Real(0.5))));
  const Real wanted = midpoint + rounded(rest * inverse_count);
  Affine<Real> affine;
  if (scale_bits == 8) {
    affine = stored_affine8(scale, wanted, max_code, expected);
  } else {
    const Real stored = as_stored(scale, scale_bits);
    affine.scale = stored < Real(std::numeric_limits<float>::min()) ? Real(0) : stored;
    affine.zero = as_stored(wanted - rounded(half * affine.scale), scale_bits);
  }
  // Only what storing changed moves the grid.
  return {affine, midpoint + (affine.zero + rounded(half * affine.scale) - wanted),
          affine.scale > 0 ? inverse_step * (scale / affine.scale) : Real(0), half};
}

/// ScaleFit::unbiased: codes of x[0..count), at most 512 numbers, and their affine: a
/// symmetric_codes() with a zero point, whose one step is a part of the range.
template <class Real>
CodeGrid<Real> unbiased_codes(const Real* x, Index count, int bits, int scale_bits, Real expected,
                              std::uint8_t* codes) {
  const Real max_code = static_cast<Real>((1 << bits) - 1), half = max_code / 2;
  const Real limit = static_cast<Real>(largest_storable(scale_bits));
  Real low = x[0], high = x[0];
  for (Index t = 1; t < count; ++t) {
    low = std::min(low, x[t]);
    high = std::max(high, x[t]);
  }
  low = std::min(limit, std::max(-limit, low));
  high = std::min(limit, std::max(-limit, high));
  const Real midpoint = (low + high) * Real(0.5), step = (high - low) * (1 / max_code);
  if (!(step > Real(std::numeric_limits<float>::min()))) {
    std::fill_n(codes, count, std::uint8_t{0});
    const Affine<Real> constant = stored_range(low, high, max_code, scale_bits, expected);
    const Real inverse = inverse_scale(constant);  // not 0 where the midpoint had to be reached
    for (Index t = 0; t < count; ++t)
      codes[t] = static_cast<std::uint8_t>(nearest_code(x[t], constant, inverse, max_code));
    return nearest_grid(constant);
  }
  const Real unit = (high - low) * (Real(0.5) / range_units), inverse_unit = 1 / unit;
  const Real most = range_units;
  const std::int32_t inverse = inverse_range_step(bits, count), end = (1 << bits) / 2;
  GroupSums sums{};
  for (Index t = 0; t < count; ++t) {
    const Real y = std::max(-most, std::min(most, (x[t] - midpoint) * inverse_unit));
    const auto units = static_cast<std::int32_t>(nearest_integer(y));
    const std::int32_t down = units * inverse >> 16 >> range_fraction(bits);
    const std::int32_t code = std::min(std::max(down, -end), end - 1);
    sums.x += units;
    sums.xx += units * units;
    sums.c += code;
    sums.xc += code * units;
  }
  const Real inverse_step =
      static_cast<Real>(inverse) / static_cast<Real>(1 << (16 + range_fraction(bits)));
  const CodeGrid<Real> grid =
      unbiased_grid(sums, static_cast<Real>(count), midpoint, unit, inverse_step * inverse_unit,
                    max_code, scale_bits, expected);
  for (Index t = 0; t < count; ++t)
    codes[t] =
        static_cast<std::uint8_t>(grid_code(x[t] - grid.shift, grid.inverse, half, max_code));
  return grid;
}

/// Codes of x[0..count) and their grid.
template <class Real>
CodeGrid<Real> encode_group(const Real* x, Index count, const GroupFormat& format, Real expected,
                            std::uint8_t* codes) {
  if (format.fit == ScaleFit::unbiased)
    return unbiased_codes(x, count, format.bits, format.scale_bits, expected, codes);
  if (format.fit == ScaleFit::symmetric)
    return symmetric_codes(x, count, format.bits, format.scale_bits, codes);
  const Real max_code = static_cast<Real>((1 << format.bits) - 1);
  const Affine<Real> affine = fit_affine(x, count, format, expected);
  const Real inverse = inverse_scale(affine);
  for (Index i = 0; i < count; ++i)
    codes[i] = static_cast<std::uint8_t>(nearest_code(x[i], affine, inverse, max_code));
  return nearest_grid(affine);
}

}  // namespace squat::detail
