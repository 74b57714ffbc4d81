// How the leading eigenvectors are found.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <cstdint>
#include <squat/detail/plan/leading_directions.hpp>
#include <squat/error.hpp>

namespace squat::detail {

template <class Real>
LeadingDirections decompose(const SquareMatrix<Real>& symmetric, Index count) {
  Eigen::SelfAdjointEigenSolver<SquareMatrix<Real>> eigen(symmetric);
  require(eigen.info() == Eigen::Success, "the eigenvalues of the second moment did not converge");
  return {eigen.eigenvalues().tail(count).reverse(),  // Eigen sorts upwards
          eigen.eigenvectors().rightCols(count).rowwise().reverse()};
}

template <class Real>
LeadingDirections iterate_powers(const SquareMatrix<Real>& moment, Index count) {
  constexpr Index spare = 8;
  constexpr int most_steps = 15;
  constexpr double least_gain = 1e-6;
  const Index n = moment.rows(), block = count + spare;
  if (block >= n) return decompose<Real>(moment, count);
  // Signs without structure: a start that happens to lie across a leading vector would miss it.
  SquareMatrix<Real> image(n, block);
  std::uint32_t state = 1;
  for (Index i = 0; i < image.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    image.data()[i] = state >> 31 == 0 ? 1 : -1;
  }
  LeadingDirections leading;
  double captured = 0;
  for (int step = 0; step < most_steps; ++step) {
    const SquareMatrix<Real> basis =
        Eigen::HouseholderQR<SquareMatrix<Real>>(image).householderQ() *
        SquareMatrix<Real>::Identity(n, block);
    image.noalias() = moment * basis;
    leading = decompose<Real>(basis.transpose() * image, count);
    leading.vectors = basis * leading.vectors;
    const double before = captured;
    captured = leading.values.sum();
    if (captured - before <= least_gain * captured) break;
    image = moment * image;
  }
  return leading;
}

#if defined(SQUAT_COMPILED)
template LeadingDirections decompose<double>(const SquareMatrix<double>&, Index);
template LeadingDirections iterate_powers<double>(const SquareMatrix<double>&, Index);
#endif

}  // namespace squat::detail
