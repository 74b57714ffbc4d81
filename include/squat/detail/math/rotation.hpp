// How heads are rotated before they are quantized.
#pragma once

#include <array>
#include <squat/detail/math/hadamard.hpp>
#include <squat/model_shape.hpp>

namespace squat::detail {

/// A rotation R of the channels of a head, which spreads what is large in some over many.
enum class Rotation : std::uint8_t {
  /// hadamard() alone, which makes a spike of what is alike in all channels: that of caches from
  /// files before version 4.
  plain,
  /// hadamard() after random signs: a direction that it turns into a spike looks like noise. Where
  /// its blocks would have fewer than 32 channels, it takes the first p channels, then, after other
  /// signs, the last p, p being the largest power of two that is no more than the head's.
  signs,
};

/// Signs of channels, twice as many as a head can have, as numbers: bit 0 of the outputs of
/// SplitMix64 (Steele et al. 2014), a 1 standing for -1. Of three million first states this one
/// leaves the signs farthest from all rows of Hadamard matrices of 8 to 512 channels.
template <class Real>
constexpr std::array<Real, 2 * max_head_dim> rotation_signs() {
  std::array<Real, 2 * max_head_dim> signs{};
  std::uint64_t state = 279865;
  for (std::size_t i = 0; i < signs.size(); ++i) {
    std::uint64_t z = state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    signs[i] = ((z ^ (z >> 31)) & 1) != 0 ? Real(-1) : Real(1);
  }
  return signs;
}

/// R of heads of `n` channels, a multiple of 8, with `hadamard(x, n)` for hadamard().
template <class Real>
class HeadRotation {
 public:
  using Hadamard = void (*)(Real*, Index);

  HeadRotation(Rotation rotation, Index n, Hadamard hadamard)
      : n_(n), hadamard_(hadamard), has_signs_(rotation == Rotation::signs) {
    const bool overlaps = has_signs_ && (n & -n) < 32 && (n & -n) < n;
    part_ = n;
    while (overlaps && (part_ & (part_ - 1)) != 0) part_ &= part_ - 1;
  }

  /// x [n] becomes R x.
  void apply(Real* x) const {
    if (has_signs_) flip(x, n_, 0);
    hadamard_(x, part_);
    if (part_ == n_) return;
    flip(x + n_ - part_, part_, n_);
    hadamard_(x + n_ - part_, part_);
  }

  /// x [n] becomes R^T x, from which apply() makes x again.
  void undo(Real* x) const {
    if (part_ < n_) {
      hadamard_(x + n_ - part_, part_);
      flip(x + n_ - part_, part_, n_);
    }
    hadamard_(x, part_);
    if (has_signs_) flip(x, n_, 0);
  }

 private:
  static void flip(Real* x, Index count, Index first) {
    static constexpr auto signs = rotation_signs<Real>();
    for (Index i = 0; i < count; ++i) x[i] *= signs[static_cast<std::size_t>(first + i)];
  }

  Index n_;
  Index part_;  // n, or of the two parts that overlap
  Hadamard hadamard_;
  bool has_signs_;
};

/// x [n] becomes R x.
template <class Real>
void rotate(Real* x, Index n, Rotation rotation) {
  HeadRotation<Real>(rotation, n, hadamard<Real>).apply(x);
}

/// x [n] becomes R^T x.
template <class Real>
void rotate_back(Real* x, Index n, Rotation rotation) {
  HeadRotation<Real>(rotation, n, hadamard<Real>).undo(x);
}

}  // namespace squat::detail
