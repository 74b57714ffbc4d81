// How the leading eigenvectors are found.
#pragma once

#include <cstdint>
#include <squat/detail/plan/leading_directions.hpp>
#include <squat/detail/plan/symmetric_eigen.hpp>

namespace squat::detail {

template <class Real>
LeadingDirections decompose(const SquareMatrix<Real>& symmetric, Index count) {
  const SymmetricEigen<Real> eigen(Matrix<Real>(symmetric), count);
  return {Eigen::Map<const Eigen::VectorXd>(eigen.values().data(), count),
          eigen.vectors().transpose()};
}

/// Orthonormal rows that span what `rows` [count, n] do, count <= n.
template <class Real>
Matrix<Real> orthonormal(Matrix<Real> rows) {
  const Index count = rows.rows();
  Reflections<Real> reflections(count, rows.cols());
  for (Index k = 0; k < count; ++k) {
    reflections.set(k, rows.row(k).data(), k);
    for (Index row = k + 1; row < count; ++row) reflections.apply(k, k, rows.row(row).data());
  }
  rows.setIdentity();
  for (Index k = count; k-- > 0;)
    for (Index row = k; row < count; ++row) reflections.apply(k, k, rows.row(row).data());
  return rows;
}

template <class Real>
LeadingDirections iterate_powers(const SquareMatrix<Real>& moment, Index count) {
  constexpr Index spare = 8;
  constexpr int most_steps = 15;
  constexpr double least_gain = 1e-6;
  const Index n = moment.rows(), block = count + spare;
  if (block >= n) return decompose<Real>(moment, count);
  // In a unit of their own powers stay within what Real holds.
  const Real top = moment.cwiseAbs().maxCoeff();
  const int exponent = top > 0 && is_finite(top) ? std::ilogb(top) : 0;
  const Matrix<Real> a = moment * std::ldexp(Real(1), -exponent);
  // Signs without structure: a start that happens to lie across a leading vector would miss it.
  Matrix<Real> image(block, n);  // vectors are rows
  std::uint32_t state = 1;
  for (Index i = 0; i < image.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    image.data()[i] = state >> 31 == 0 ? 1 : -1;
  }
  LeadingDirections leading;
  double captured = 0;
  for (int step = 0; step < most_steps; ++step) {
    const Matrix<Real> basis = orthonormal(image);
    image = product(basis, a);
    SquareMatrix<Real> projected(block, block);
    for (Index i = 0; i < block; ++i)
      for (Index j = 0; j <= i; ++j)
        projected(i, j) = projected(j, i) = dot(basis.row(i).data(), image.row(j).data(), n);
    leading = decompose<Real>(projected, count);
    leading.vectors = product<Real>(Matrix<Real>(leading.vectors.transpose()), basis).transpose();
    const double before = captured;
    captured = 0;
    for (Index i = 0; i < count; ++i) captured += leading.values[i];
    if (captured - before <= least_gain * captured) break;
    image = product(image, a);
  }
  leading.values *= std::ldexp(1.0, exponent);
  return leading;
}

#if defined(SQUAT_COMPILED)
template LeadingDirections decompose<double>(const SquareMatrix<double>&, Index);
template LeadingDirections iterate_powers<double>(const SquareMatrix<double>&, Index);
#endif

}  // namespace squat::detail
