// Matrix types. Everything is row-major; a row is a token unless a comment says otherwise.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace squat {

using Index = Eigen::Index;

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A caller's row-major matrix as it lies in memory: rows may be any stride apart, the elements of
/// a row are contiguous.
template <class Scalar>
using MatrixView = Eigen::Ref<const Matrix<Scalar>, 0, Eigen::OuterStride<>>;

template <class Scalar>
using MutableMatrixView = Eigen::Ref<Matrix<Scalar>, 0, Eigen::OuterStride<>>;

inline Index round_up(Index value, Index multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// The type that a cache of `Scalar` computes in: double for double, float for everything else.
template <class Scalar>
using ComputeType = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;

template <class Scalar>
inline constexpr bool is_supported_scalar =
    std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double> ||
    std::is_same_v<Scalar, Eigen::half> || std::is_same_v<Scalar, Eigen::bfloat16>;

}  // namespace squat
