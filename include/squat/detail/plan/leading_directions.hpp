// The leading eigenvectors of a second moment.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <cstdint>
#include <squat/config.hpp>

namespace squat::detail {

/// Eigenvectors of the largest eigenvalues, largest first.
struct LeadingDirections {
  Eigen::VectorXd values;   ///< [count]
  Eigen::MatrixXd vectors;  ///< [n, count]: orthonormal columns
};

/// From a full decomposition of `symmetric` [n, n].
inline LeadingDirections decompose(const Eigen::MatrixXd& symmetric, Index count) {
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(symmetric);
  require(eigen.info() == Eigen::Success, "the eigenvalues of the second moment did not converge");
  return {eigen.eigenvalues().tail(count).reverse(),  // Eigen sorts upwards
          eigen.eigenvectors().rightCols(count).rowwise().reverse()};
}

/// By block power iteration (orthogonal iteration with a Rayleigh-Ritz projection: Golub and Van
/// Loan, section 8.2), for a positive semidefinite `moment` [n, n].
///
/// Eight vectors more than asked for are iterated, so that convergence does not wait for a gap
/// behind the last one that counts: what is still wrong fades, each power, by the ratio of the
/// eigenvalue eight places behind it to the last one that counts. Two powers make a step, since
/// projections cost more than products. It ends when a step adds less than a millionth to what the
/// leading vectors capture of the trace, or after 15: then only directions of about equal
/// eigenvalues are mixed, and the metric hardly depends on which of them it has.
inline LeadingDirections iterate_powers(const Eigen::MatrixXd& moment, Index count) {
  constexpr Index spare = 8;
  constexpr int most_steps = 15;
  constexpr double least_gain = 1e-6;
  const Index n = moment.rows(), block = count + spare;
  if (block >= n) return decompose(moment, count);
  // Signs without structure: a start that happens to lie across a leading vector would miss it.
  Eigen::MatrixXd image(n, block);
  std::uint32_t state = 1;
  for (Index i = 0; i < image.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    image.data()[i] = state >> 31 == 0 ? 1 : -1;
  }
  LeadingDirections leading;
  double captured = 0;
  for (int step = 0; step < most_steps; ++step) {
    const Eigen::MatrixXd basis = Eigen::HouseholderQR<Eigen::MatrixXd>(image).householderQ() *
                                  Eigen::MatrixXd::Identity(n, block);
    image.noalias() = moment * basis;
    leading = decompose(basis.transpose() * image, count);
    leading.vectors = basis * leading.vectors;
    const double before = captured;
    captured = leading.values.sum();
    if (captured - before <= least_gain * captured) break;
    image = moment * image;
  }
  return leading;
}

}  // namespace squat::detail
