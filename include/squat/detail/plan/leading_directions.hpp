// The leading eigenvectors of a second moment.
#pragma once

#include <squat/detail/compiled_once.hpp>
#include <squat/matrix.hpp>

namespace squat::detail {

/// Eigenvectors of the largest eigenvalues, largest first.
struct LeadingDirections {
  Eigen::VectorXd values;   ///< [count]
  Eigen::MatrixXd vectors;  ///< [n, count]: orthonormal columns
};

template <class Real>
using SquareMatrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic>;

// Real is double. Templates so that only a program that calls them compiles the decompositions,
// which take longer than all the rest.

/// From a full decomposition of `symmetric` [n, n].
template <class Real>
LeadingDirections decompose(const SquareMatrix<Real>& symmetric, Index count);

/// By block power iteration (orthogonal iteration with a Rayleigh-Ritz projection: Golub and Van
/// Loan, section 8.2), for a positive semidefinite `moment` [n, n].
///
/// Eight vectors more than asked for are iterated, so that convergence does not wait for a gap
/// behind the last one that counts: what is still wrong fades, each power, by the ratio of the
/// eigenvalue eight places behind it to the last one that counts. Two powers make a step, since
/// projections cost more than products. It ends when a step adds less than a millionth to what the
/// leading vectors capture of the trace, or after 15: then only directions of about equal
/// eigenvalues are mixed, and the metric hardly depends on which of them it has.
template <class Real>
LeadingDirections iterate_powers(const SquareMatrix<Real>& moment, Index count);

}  // namespace squat::detail

#if !defined(SQUAT_COMPILED)
#include <squat/detail/plan/leading_directions_source.hpp>
#endif
