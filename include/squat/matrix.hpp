// Matrix types. Everything is row-major; a row is a token unless a comment says otherwise.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace squat {

using Index = Eigen::Index;

/// The last position that a token can have, and the widest window: sums of a few stay far from the
/// largest Index, which has 32 bits on some machines.
inline constexpr Index max_position = Index{1} << (sizeof(Index) == 8 ? 48 : 28);

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A caller's row-major matrix as it lies in memory: rows may be any stride apart, the elements of
/// a row are contiguous.
template <class Scalar>
using MatrixView = Eigen::Ref<const Matrix<Scalar>, 0, Eigen::OuterStride<>>;

template <class Scalar>
using MutableMatrixView = Eigen::Ref<Matrix<Scalar>, 0, Eigen::OuterStride<>>;

namespace detail {

/// A caller's rows, seen under a name that says what they are. A temporary: it may hold a copy of
/// what cannot be seen as it lies, and is not copied itself.
template <class Scalar>
class NamedRows {
 public:
  template <class Rows>
  explicit NamedRows(const Eigen::DenseBase<Rows>& rows) : matrix_(rows.derived()) {}
  NamedRows(const NamedRows&) = delete;
  NamedRows& operator=(const NamedRows&) = delete;

  const MatrixView<Scalar>& matrix() const { return matrix_; }

 private:
  MatrixView<Scalar> matrix_;
};

}  // namespace detail

/// Queries of tokens [tokens, query_heads * head_dim], as an argument: Queries(q). The types of
/// Queries, Keys and Values differ so that one is never taken for another.
template <class Scalar>
struct Queries : detail::NamedRows<Scalar> {
  using detail::NamedRows<Scalar>::NamedRows;
};
template <class Rows>
Queries(const Eigen::DenseBase<Rows>&) -> Queries<typename Rows::Scalar>;

/// Keys of tokens [tokens, kv_heads * head_dim], as an argument: Keys(k).
template <class Scalar>
struct Keys : detail::NamedRows<Scalar> {
  using detail::NamedRows<Scalar>::NamedRows;
};
template <class Rows>
Keys(const Eigen::DenseBase<Rows>&) -> Keys<typename Rows::Scalar>;

/// Values of tokens [tokens, kv_heads * head_dim], as an argument: Values(v).
template <class Scalar>
struct Values : detail::NamedRows<Scalar> {
  using detail::NamedRows<Scalar>::NamedRows;
};
template <class Rows>
Values(const Eigen::DenseBase<Rows>&) -> Values<typename Rows::Scalar>;

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
