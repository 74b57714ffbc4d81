#pragma once

#include <cstring>
#include <squat/matrix.hpp>

namespace squat::testing {

/// Whether two matrices are equal bit for bit.
template <class Scalar>
bool same_bytes(const Matrix<Scalar>& a, const Matrix<Scalar>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  return a.size() == 0 ||
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(Scalar)) == 0;
}

}  // namespace squat::testing
