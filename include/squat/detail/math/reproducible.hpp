// Arithmetic that every compiler and machine rounds alike.
#pragma once

#include <algorithm>
#include <squat/matrix.hpp>

// Where g++ may use fused multiply-adds, the kind of register that numbers go through unfused.
#if defined(__GNUC__) && !defined(__clang__)
#if defined(__FMA__) || defined(__FMA4__)
#define SQUAT_NUMBER "x"
#elif defined(__aarch64__)
#define SQUAT_NUMBER "w"
#elif defined(__s390x__) || defined(__riscv) || defined(__powerpc64__)
#define SQUAT_NUMBER "f"
#elif !defined(__x86_64__) && !defined(__i386__)
#define SQUAT_NUMBER "m"
#endif
#endif

namespace squat::detail {

/// x, rounded as it is: a product rounded(a * b) is not fused with the sum that it goes into, which
/// a compiler may do where the machine has fused multiply-adds. (Clang fuses only within an
/// expression, and a call ends one. A barrier of g++'s own, __builtin_assoc_barrier, gets lost when
/// loops become vectors.) Programs compiled with -ffast-math round as they like.
template <class Real>
Real rounded(Real x) {
#if defined(SQUAT_NUMBER)
  __asm__("" : "+" SQUAT_NUMBER(x));
#endif
  return x;
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
  const Index whole = n / 8 * 8;
  for (Index i = 0; i < whole; i += 8) {
    Real sum[8];
    for (Index k = 0; k < 8; ++k) sum[k] = out[i + k] + rounded(factor * x[i + k]);
    for (Index k = 0; k < 8; ++k) out[i + k] = sum[k];
  }
  for (Index i = whole; i < n; ++i) out[i] += rounded(factor * x[i]);
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
