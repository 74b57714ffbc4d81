// Causal attention of one query head over keys and values in single precision.
#pragma once

#include <algorithm>
#include <squat/matrix.hpp>

namespace squat_llama {

/// Row i of `query` [rows, head_dim] belongs to token size - rows + i of `key` and `value`
/// [size, head_dim]. `out` is shaped like `query`.
template <class Query, class Key, class Value, class Out>
void dense_attention(const Query& query, const Key& key, const Value& value, float scale,
                     Out&& out) {
  constexpr squat::Index rows_at_once = 128;  // bounds the memory that scores take
  const squat::Index first_position = key.rows() - query.rows();
  squat::Matrix<float> scores;
  for (squat::Index begin = 0; begin < query.rows(); begin += rows_at_once) {
    const squat::Index rows = std::min(rows_at_once, query.rows() - begin);
    const squat::Index seen = first_position + begin + rows;
    scores.noalias() = scale * query.middleRows(begin, rows) * key.topRows(seen).transpose();
    for (squat::Index i = 0; i < rows; ++i) {
      const squat::Index position = first_position + begin + i;
      auto row = scores.row(i);
      row.tail(seen - position - 1).setZero();
      auto past = row.head(position + 1);
      past = (past.array() - past.maxCoeff()).exp();
      past /= past.sum();
    }
    out.middleRows(begin, rows).noalias() = scores * value.topRows(seen);
  }
}

}  // namespace squat_llama
