// Matrices of fixed random numbers.
#pragma once

#include <cmath>
#include <random>
#include <squat/matrix.hpp>

namespace squat::testing {

/// Independent standard normal numbers [rows, columns]; the same for the same seed everywhere.
template <class Scalar = double>
Matrix<Scalar> random_matrix(Index rows, Index columns, unsigned seed) {
  std::mt19937 bits(seed);
  // std::normal_distribution may differ between standard libraries; Box and Muller do not.
  const auto uniform = [&] { return (static_cast<double>(bits()) + 0.5) / 4294967296.0; };
  Matrix<Scalar> matrix(rows, columns);
  for (Index i = 0; i < matrix.size(); ++i) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    const double angle = 6.283185307179586 * uniform();
    matrix.data()[i] = static_cast<Scalar>(radius * std::cos(angle));
  }
  return matrix;
}

/// Rows with correlated channels, as queries and keys have: independent numbers times one random
/// mixing matrix whose spectrum falls.
template <class Scalar = double>
Matrix<Scalar> correlated_matrix(Index rows, Index columns, unsigned seed) {
  Matrix<double> mixing = random_matrix(columns, columns, seed + 1);
  for (Index i = 0; i < columns; ++i) mixing.row(i) *= 2 / std::sqrt(1.0 + static_cast<double>(i));
  return (random_matrix(rows, columns, seed) * mixing).template cast<Scalar>();
}

}  // namespace squat::testing
