// Rotary position embedding (RoPE, Su et al. 2021).
#pragma once

#include <algorithm>
#include <squat/model_shape.hpp>

namespace squat::detail {

/// By how much each pair turns over up to `steps` positions: all that rotation of a long sequence
/// needs of cos and sin. Never changes, so that any number of threads may read it.
class RopeTable {
 public:
  static constexpr Index steps = 32;
  using Pairs = Eigen::Array<double, 1, Eigen::Dynamic>;

  /// Fails on a rope that turns nothing, and as check() does.
  RopeTable(const Rope& rope, Index head_dim)
      : head_dim_(head_dim), first_(rope.first), pairing_(rope.pairing) {
    check(rope, head_dim);
    require(rope.pairing != RopePairing::none, "rope.pairing is none; a table needs another one");
    const Index dims = rope.dims == 0 ? head_dim - rope.first : rope.dims;
    frequencies_.resize(dims / 2);
    for (Index i = 0; i < pairs(); ++i) {
      const double factor = rope.factors.empty() ? 1 : rope.factors[static_cast<std::size_t>(i)];
      const double exponent = -2 * static_cast<double>(i) / static_cast<double>(dims);
      frequencies_[i] = std::pow(rope.base, exponent) / factor;
    }
    cos_.resize(steps + 1, pairs());
    sin_.resize(steps + 1, pairs());
    for (Index step = 0; step <= steps; ++step) {
      cos_.row(step) = (static_cast<double>(step) * frequencies_).cos();
      sin_.row(step) = (static_cast<double>(step) * frequencies_).sin();
    }
  }

  Index head_dim() const { return head_dim_; }
  Index first() const { return first_; }  ///< channel that turns
  Index pairs() const { return frequencies_.size(); }
  RopePairing pairing() const { return pairing_; }
  const Pairs& frequencies() const { return frequencies_; }  ///< radians a position [pairs]
  /// Of the angles of `step` positions, 0 to steps [pairs].
  const double* cos(Index step) const { return cos_.row(step).data(); }
  const double* sin(Index step) const { return sin_.row(step).data(); }
  Index bytes() const {
    return (frequencies_.size() + cos_.size() + sin_.size()) * Index{sizeof(double)};
  }

 private:
  Index head_dim_;
  Index first_;
  RopePairing pairing_;
  Pairs frequencies_;
  Matrix<double> cos_, sin_;  // [steps + 1, pairs]
};

/// Rotates rows. Angles along a sequence are carried from one run of rows to the next in double, by
/// products of complex numbers: after a million positions they are off by about 1e-11.
template <class Real>
class RopeWalk {
 public:
  /// `table` outlives the walk.
  explicit RopeWalk(const RopeTable& table) : table_(table) { go_to(0); }

  /// Turns rows [rows, width] of whole heads, the first of them at `position`; quickest where the
  /// last call ended.
  void rotate(Index position, Real* data, Index rows, Index width) {
    if (position != position_) go_to(position);
    for (Index done = 0; done < rows;) {
      const Index count = std::min(rows - done, RopeTable::steps);
      for (Index step = 0; step < count; ++step, data += width) {
        turn(table_.cos(step), table_.sin(step), cos_, sin_);
        for (Index first = 0; first < width; first += table_.head_dim()) rotate_head(data + first);
      }
      turn(table_.cos(count), table_.sin(count), start_cos_, start_sin_);
      position_ += count;
      done += count;
    }
  }

  /// Turns rows [rows, width] of whole heads by `positions` each.
  void rotate_all(Index positions, Real* data, Index rows, Index width) {
    if (positions != position_) go_to(positions);
    turn(table_.cos(0), table_.sin(0), cos_, sin_);
    for (Real* head = data; head < data + rows * width; head += table_.head_dim())
      rotate_head(head);
  }

 private:
  static constexpr Index max_pairs = max_head_dim / 2;

  void go_to(Index position) {
    position_ = position;
    for (Index i = 0; i < table_.pairs(); ++i) {
      const double angle = static_cast<double>(position) * table_.frequencies()[i];
      start_cos_[i] = std::cos(angle);
      start_sin_[i] = std::sin(angle);
    }
  }

  /// The start's angles and the given ones [pairs] together; the result may be the start's own.
  template <class Result>
  void turn(const double* cos, const double* sin, Result* result_cos, Result* result_sin) const {
    for (Index i = 0; i < table_.pairs(); ++i) {
      const double c = start_cos_[i] * cos[i] - start_sin_[i] * sin[i];
      const double s = start_sin_[i] * cos[i] + start_cos_[i] * sin[i];
      result_cos[i] = static_cast<Result>(c);
      result_sin[i] = static_cast<Result>(s);
    }
  }

  void rotate_head(Real* head) const {
    head += table_.first();
    if (table_.pairing() == RopePairing::halves)
      rotate_pairs<1>(head, head + table_.pairs());
    else
      rotate_pairs<2>(head, head + 1);
  }

  /// Pair i is a[i * Stride], b[i * Stride].
  template <Index Stride>
  void rotate_pairs(Real* a, Real* b) const {
    for (Index i = 0; i < table_.pairs(); ++i) {
      const Real x = a[i * Stride], y = b[i * Stride];
      a[i * Stride] = x * cos_[i] - y * sin_[i];
      b[i * Stride] = x * sin_[i] + y * cos_[i];
    }
  }

  const RopeTable& table_;
  Index position_ = 0;
  double start_cos_[max_pairs], start_sin_[max_pairs];  // of the angles at position_
  Real cos_[max_pairs], sin_[max_pairs];                // of the row at hand
};

}  // namespace squat::detail
