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
    for (const std::uint8_t is_valid : mask) rank.push_back(is_valid != 0 ? valid_tokens++ : 0);
  }

  void truncate(Index size) {
    for (Matrix<Scalar>* matrix : {&queries, &keys, &values})
      matrix->conservativeResize(size, Eigen::NoChange);
    valid.resize(static_cast<std::size_t>(size));
    rank.resize(static_cast<std::size_t>(size));
  }

  /// Tokens of `range` are there no more. It does not reach to the end.
  void erase(const TokenRange& range) {
    for (Index token = range.begin; token < range.end; ++token) {
      valid[static_cast<std::size_t>(token)] = 0;
      for (Matrix<Scalar>* matrix : {&queries, &keys, &values}) matrix->row(token).setZero();
    }
  }

  /// Tokens of `range` move by `delta` positions, over none that is valid; turn(rows) gives their
  /// queries and keys there.
  template <class Turn>
  void shift(const TokenRange& range, Index delta, const Turn& turn) {
    const Index new_size = size() + (range.end == size() ? delta : 0);
    TokenHistory old = *this;
    for (Matrix<Scalar>* matrix : {&queries, &keys, &values}) {
      matrix->setZero(new_size, matrix->cols());
    }
    valid.assign(static_cast<std::size_t>(new_size), 0);
    rank.assign(static_cast<std::size_t>(new_size), 0);
    for (Index token = 0; token < old.size(); ++token) {
      const auto from = static_cast<std::size_t>(token);
      const bool moves = token >= range.begin && token < range.end;
      const Index to = token + (moves ? delta : 0);
      if (old.valid[from] == 0) continue;
      const Matrix<Scalar> query = old.queries.row(token), key = old.keys.row(token);
      queries.row(to) = moves ? turn(query) : query;
      keys.row(to) = moves ? turn(key) : key;
      values.row(to) = old.values.row(token);
      valid[static_cast<std::size_t>(to)] = 1;
      rank[static_cast<std::size_t>(to)] = old.rank[from];
    }
  }

  /// Padding of the newest tokens; a view.
  Mask newest_mask(Index tokens) const {
    return {valid.data() + valid.size() - static_cast<std::size_t>(tokens), tokens};
  }

  Matrix<Scalar> queries, keys, values;
  std::vector<std::uint8_t> valid;  // 0 for padding, and for what was erased
  std::vector<Index> rank;          // how many valid tokens came before
  Index valid_tokens = 0;           // that came
};

}  // namespace squat::testing
