// Rotary position embedding as its formula says, in double.
#pragma once

#include <cmath>
#include <squat/config.hpp>

namespace squat::testing {

/// `rows` [tokens, heads * head_dim] turned as shape.rope says, the first of them at `position`.
template <class Scalar>
Matrix<double> rotated(const LayerShape& shape, const Matrix<Scalar>& rows, Index position = 0) {
  const Rope& rope = shape.rope;
  Matrix<double> out = rows.template cast<double>();
  if (rope.pairing == RopePairing::none) return out;
  const Index dims = rope.dims == 0 ? shape.head_dim - rope.first : rope.dims;
  for (Index row = 0; row < rows.rows(); ++row)
    for (Index head = 0; head < rows.cols(); head += shape.head_dim)
      for (Index pair = 0; pair < dims / 2; ++pair) {
        const bool halves = rope.pairing == RopePairing::halves;
        const Index a = head + rope.first + (halves ? pair : 2 * pair);
        const Index b = a + (halves ? dims / 2 : 1);
        double angle =
            static_cast<double>(position + row) *
            std::pow(rope.base, -2 * static_cast<double>(pair) / static_cast<double>(dims));
        if (!rope.factors.empty()) angle /= rope.factors[static_cast<std::size_t>(pair)];
        const double x = out(row, a), y = out(row, b);
        out(row, a) = x * std::cos(angle) - y * std::sin(angle);
        out(row, b) = x * std::sin(angle) + y * std::cos(angle);
      }
  return out;
}

}  // namespace squat::testing
