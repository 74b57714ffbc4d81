// Arithmetic that every compiler and machine rounds alike.
#pragma once

#include <algorithm>
#include <squat/matrix.hpp>

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define SQUAT_ROUNDED(x) __builtin_assoc_barrier(x)
#else
#define SQUAT_ROUNDED(x) (x)
#endif

namespace squat::detail {

/// x, rounded as it is: a product rounded(a * b) is not fused with the sum that it goes into, which
/// a compiler may do where the machine has fused multiply-adds. (Clang fuses only within an
/// expression, and a call ends one.) Programs compiled with -ffast-math round as they like.
template <class Real>
Real rounded(Real x) {
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
  __asm__("" : "+g"(x));
#endif
  return SQUAT_ROUNDED(x);
}

/// sum_i a[i] b[i], i < n: eight sums side by side, so that every -O2 makes vectors of them.
template <class Real>
Real dot(const Real* a, const Real* b, Index n) {
  Real lanes[8] = {};
  Index i = 0;
  for (; i + 8 <= n; i += 8)
    for (Index lane = 0; lane < 8; ++lane) lanes[lane] += rounded(a[i + lane] * b[i + lane]);
  for (Index lane = 0; i + lane < n; ++lane) lanes[lane] += rounded(a[i + lane] * b[i + lane]);
  for (Index half = 4; half > 0; half /= 2)
    for (Index lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

/// out[i] += factor * x[i], i < n.
template <class Real>
void add_multiple(Real factor, const Real* x, Index n, Real* out) {
  Index i = 0;
  for (; i + 8 <= n; i += 8) {
    Real sum[8];
    for (Index k = 0; k < 8; ++k) sum[k] = out[i + k] + rounded(factor * x[i + k]);
    for (Index k = 0; k < 8; ++k) out[i + k] = sum[k];
  }
  for (; i < n; ++i) out[i] += rounded(factor * x[i]);
}

/// a [rows, n] b [n, columns], every number summed up in the order of n.
template <class Real>
Matrix<Real> product(const Matrix<Real>& a, const Matrix<Real>& b) {
  constexpr Index block = 16;
  Matrix<Real> out(a.rows(), b.cols());
  for (Index row = 0; row < out.rows(); ++row)
    for (Index first = 0; first < out.cols(); first += block) {
      const Index count = std::min(out.cols() - first, block);
      const Real *factors = a.row(row).data(), *numbers = b.data() + first;
      Real sums[block] = {};
      if (count == block) {  // a loop of known length becomes vectors
        for (Index i = 0; i < a.cols(); ++i, numbers += b.cols())
          for (Index k = 0; k < block; ++k) sums[k] += rounded(factors[i] * numbers[k]);
      } else {
        for (Index i = 0; i < a.cols(); ++i, numbers += b.cols())
          for (Index k = 0; k < count; ++k) sums[k] += rounded(factors[i] * numbers[k]);
      }
      std::copy_n(sums, count, out.row(row).data() + first);
    }
  return out;
}

}  // namespace squat::detail
