// What a layer of a sequence was given.
#pragma once

#include <squat/config.hpp>
#include <squat/options.hpp>
#include <vector>

namespace squat::testing {

/// Tokens in the order in which they came, a row each.
template <class Scalar>
struct TokenHistory {
  explicit TokenHistory(const LayerShape& shape)
      : queries(0, shape.query_heads * shape.head_dim),
        keys(0, shape.kv_heads * shape.head_dim),
        values(0, shape.kv_heads * shape.value_width()) {}

  Index size() const { return keys.rows(); }

  /// New tokens; make(columns) gives a matrix of as many rows as `mask` has entries, for queries,
  /// keys and values in this order.
  template <class Make>
  void append(const std::vector<std::uint8_t>& mask, const Make& make) {
    const auto tokens = static_cast<Index>(mask.size());
    for (Matrix<Scalar>* matrix : {&queries, &keys, &values}) {
      const Matrix<Scalar> rows = make(matrix->cols());
      matrix->conservativeResize(matrix->rows() + tokens, Eigen::NoChange);
      matrix->bottomRows(tokens) = rows;
    }
    valid.insert(valid.end(), mask.begin(), mask.end());
  }

  void truncate(Index size) {
    for (Matrix<Scalar>* matrix : {&queries, &keys, &values})
      matrix->conservativeResize(size, Eigen::NoChange);
    valid.resize(static_cast<std::size_t>(size));
  }

  /// Padding of the newest tokens; a view.
  Mask newest_mask(Index tokens) const {
    return {valid.data() + valid.size() - static_cast<std::size_t>(tokens), tokens};
  }

  Matrix<Scalar> queries, keys, values;
  std::vector<std::uint8_t> valid;  // 0 for padding
};

}  // namespace squat::testing
