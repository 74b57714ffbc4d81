// A rotation that spreads what is large in one channel over many.
#pragma once

#include <cmath>
#include <squat/detail/math/reproducible.hpp>

namespace squat::detail {

/// Multiplies x [n] by the orthonormal Hadamard matrix of the largest power of two that divides n,
/// block by block. It is its own inverse.
template <class Real>
void hadamard(Real* x, Index n) {
  const Index block = n & -n;
  const Real norm = 1 / std::sqrt(static_cast<Real>(block));
  for (Index i = 0; i < n; ++i) x[i] = rounded(x[i] * norm);
  for (Index stride = 1; stride < block; stride *= 2)
    for (Index first = 0; first < n; first += 2 * stride)
      for (Index i = first; i < first + stride; ++i) {
        const Real a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
}

}  // namespace squat::detail
