// Eigenvalues and eigenvectors of a symmetric matrix, the same to the bit on every machine.
#pragma once

#include <numeric>
#include <squat/detail/finite.hpp>
#include <squat/detail/math/reproducible.hpp>
#include <squat/error.hpp>
#include <vector>

namespace squat::detail {

/// Reflections I - weight v v^T, one to a row of v, that turn vectors so that only what comes first
/// is left of them (Golub and Van Loan, section 5.1).
template <class Real>
struct Reflections {
  Matrix<Real> v;
  std::vector<Real> weight;

  Reflections(Index count, Index length)
      : v(Matrix<Real>::Zero(count, length)), weight(static_cast<std::size_t>(count), Real(0)) {}

  /// Reflection `k` turns x [from, end) into its norm and zeros. Returns the norm, with a sign.
  Real set(Index k, const Real* x, Index from) {
    const Index n = v.cols() - from;
    Real* const own = v.row(k).data() + from;
    std::copy_n(x + from, n, own);
    const Real squares = dot(own, own, n);
    if (squares == 0) return 0;  // what is no number goes on, and fails to converge
    const Real norm = std::copysign(std::sqrt(squares), -own[0]);
    own[0] -= norm;
    weight[static_cast<std::size_t>(k)] = 2 / dot(own, own, n);
    return norm;
  }

  /// Applies reflection `k`, of which the numbers before `from` are zeros, to x.
  void apply(Index k, Index from, Real* x) const {
    const Real* const own = v.row(k).data() + from;
    const Index n = v.cols() - from;
    const Real along = weight[static_cast<std::size_t>(k)] * dot(own, x + from, n);
    add_multiple(-along, own, n, x + from);
  }
};

/// Householder's reduction to a tridiagonal matrix and QL steps with implicit shifts (Golub and Van
/// Loan, section 8.3). Errors are about the rounding errors of the largest eigenvalue.
template <class Real>
class SymmetricEigen {
 public:
  /// The `count` largest eigenvalues of `symmetric` [n, n], of which both triangles are read. Fails
  /// on numbers that are not finite.
  SymmetricEigen(const Matrix<Real>& symmetric, Index count)
      : n_(symmetric.rows()), reflections_(std::max(n_ - 2, Index{0}), n_) {
    // In a unit of their own squares neither overflow nor vanish.
    const Real top = n_ > 0 ? symmetric.cwiseAbs().maxCoeff() : Real(0);
    const int exponent = top > 0 && is_finite(top) ? std::ilogb(top) : 0;
    reduce(symmetric * std::ldexp(Real(1), -exponent));
    iterate();
    std::vector<std::size_t> order(diagonal_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return diagonal_[a] > diagonal_[b]; });
    order.resize(static_cast<std::size_t>(count));
    vectors_ = turned_back(order);
    for (const std::size_t i : order) values_.push_back(std::ldexp(diagonal_[i], exponent));
  }

  const std::vector<Real>& values() const { return values_; }  ///< [count], largest first
  const Matrix<Real>& vectors() const { return vectors_; }     ///< [count, n], of length 1

 private:
  void reduce(Matrix<Real> a) {
    std::vector<Real> image(static_cast<std::size_t>(n_));
    for (Index k = 0; k < n_; ++k) {
      diagonal_.push_back(a(k, k));
      if (k + 1 == n_) break;
      beside_.push_back(a(k, k + 1));
      if (k + 2 == n_) continue;
      // A becomes H A H = A - v w^T - w v^T, w = p - (weight / 2 <p, v>) v, p = weight A v.
      beside_.back() = reflections_.set(k, a.row(k).data(), k + 1);
      const Real weight = reflections_.weight[static_cast<std::size_t>(k)];
      const Real* const v = reflections_.v.row(k).data() + k + 1;
      const Index left = n_ - k - 1;
      for (Index i = 0; i < left; ++i)
        image[static_cast<std::size_t>(i)] =
            rounded(weight * dot(a.row(k + 1 + i).data() + k + 1, v, left));
      add_multiple(-(weight / 2) * dot(image.data(), v, left), v, left, image.data());
      for (Index i = 0; i < left; ++i) {
        Real* const row = a.row(k + 1 + i).data() + k + 1;
        add_multiple(-v[i], image.data(), left, row);
        add_multiple(-image[static_cast<std::size_t>(i)], v, left, row);
      }
    }
  }

  void iterate() {
    constexpr int most_steps = 60;  // for an eigenvalue; about two are usual
    Real size = 0;
    for (const std::vector<Real>* part : {&diagonal_, &beside_})
      for (const Real x : *part) size = std::max(size, std::abs(x));
    const Real nothing = std::numeric_limits<Real>::epsilon() * size;
    for (std::size_t first = 0; first < diagonal_.size(); ++first)
      for (int step = 0;; ++step) {
        std::size_t last = first;
        while (last < beside_.size() && !(std::abs(beside_[last]) <= nothing)) ++last;
        if (last == first) break;
        require(step < most_steps, "the eigenvalues of the second moment did not converge");
        turn(first, last);
      }
  }

  /// A step for the rows from `first` to `last`.
  void turn(std::size_t first, std::size_t last) {
    std::vector<Real>&d = diagonal_, &e = beside_;
    const Real half = (d[first + 1] - d[first]) / (2 * e[first]);
    const Real root = std::sqrt(rounded(half * half) + 1);
    Real g = d[last] - d[first] + e[first] / (half + std::copysign(root, half));
    if (last < e.size()) e[last] = 0;
    Real sine = 1, cosine = 1, shift = 0;
    for (std::size_t i = last; i-- > first;) {
      const Real f = sine * e[i], b = rounded(cosine * e[i]);
      const Real length = std::sqrt(rounded(f * f) + rounded(g * g));
      if (i + 1 < last) e[i + 1] = length;
      if (!(length > 0)) {  // the matrix has come apart here
        d[i + 1] -= shift;
        return;
      }
      sine = f / length;
      cosine = g / length;
      g = d[i + 1] - shift;
      const Real r = rounded((d[i] - g) * sine) + rounded(2 * cosine * b);
      shift = rounded(sine * r);
      d[i + 1] = g + shift;
      g = rounded(cosine * r) - b;
      rotations_.push_back({static_cast<Index>(i), sine, cosine});
    }
    d[first] -= shift;
    e[first] = g;
  }

  /// Eigenvectors number `order` of the tridiagonal matrix, turned to those of the whole one. All
  /// rotations and reflections, last ones first, are fewer operations on some vectors than on all.
  Matrix<Real> turned_back(const std::vector<std::size_t>& order) const {
    const Index count = static_cast<Index>(order.size());
    Matrix<Real> columns = Matrix<Real>::Zero(n_, count);
    for (Index i = 0; i < count; ++i)
      columns(static_cast<Index>(order[static_cast<std::size_t>(i)]), i) = 1;
    for (std::size_t i = rotations_.size(); i-- > 0;) {
      const Rotation& one = rotations_[i];
      one.apply(columns.row(one.row).data(), columns.row(one.row + 1).data(), count);
    }
    Matrix<Real> rows = columns.transpose();
    for (Index k = n_ - 2; k-- > 0;)
      for (Index i = 0; i < count; ++i) reflections_.apply(k, k + 1, rows.row(i).data());
    return rows;
  }

  /// Of rows `row` and `row` + 1.
  struct Rotation {
    Index row;
    Real sine, cosine;

    void apply(Real* a, Real* b, Index n) const {
      const auto turn = [&](Index first, Index count) {
        Real x[8], y[8];
        for (Index i = 0; i < count; ++i) {
          x[i] = rounded(cosine * a[first + i]) + rounded(sine * b[first + i]);
          y[i] = rounded(cosine * b[first + i]) - rounded(sine * a[first + i]);
        }
        for (Index i = 0; i < count; ++i) a[first + i] = x[i];
        for (Index i = 0; i < count; ++i) b[first + i] = y[i];
      };
      Index first = 0;
      for (; first + 8 <= n; first += 8) turn(first, 8);
      turn(first, n - first);
    }
  };

  Index n_;
  Reflections<Real> reflections_;
  std::vector<Rotation> rotations_;
  std::vector<Real> diagonal_;  // eigenvalues, once done
  std::vector<Real> beside_;    // the diagonal beside it
  std::vector<Real> values_;
  Matrix<Real> vectors_;
};

}  // namespace squat::detail
