// Attention as its formula says, in double.
#pragma once

#include <cmath>
#include <limits>
#include <squat/config.hpp>
#include <squat/options.hpp>
#include <vector>

namespace squat::testing {

/// Which tokens queries of a call see, as LayerShape and CallOptions document it.
class Sight {
 public:
  /// Of `size` tokens, of which `valid` says which are not padding; empty: all are. `rank` says how
  /// many valid ones came before each; empty: none was erased.
  Sight(const LayerShape& shape, const CallOptions& options, Index size,
        const std::vector<std::uint8_t>& valid, const std::vector<Index>& rank = {})
      : shape_(shape), options_(options), size_(size) {
    Index before = 0;
    for (std::size_t t = 0; t < static_cast<std::size_t>(size); ++t) {
      valid_.push_back(valid.empty() || valid[t] != 0);
      valid_before_.push_back(rank.empty() ? before : rank[t]);
      before += valid_.back();
    }
  }

  bool is_padding(Index row, Index position) const {
    return position < size_ ? !valid_[static_cast<std::size_t>(position)] : !options_.mask[row];
  }

  /// Whether row `row` of the call, at `position`, sees `token`.
  bool sees(Index row, Index position, Index token) const {
    if (!valid_[static_cast<std::size_t>(token)]) return false;
    const Index in_tree = token - (size_ - options_.tree.tokens());
    if (!options_.tree.empty() && in_tree >= 0 && !options_.tree(row, in_tree)) return false;
    if (!options_.visible.empty())
      return token >= options_.visible[row].begin && token < options_.visible[row].end;
    if (token > position) return false;
    const bool is_forgotten = (shape_.window > 0 && token <= position - shape_.window) ||
                              (shape_.chunk > 0 && token / shape_.chunk != position / shape_.chunk);
    return !is_forgotten || valid_before_[static_cast<std::size_t>(token)] < shape_.sink_tokens;
  }

 private:
  const LayerShape& shape_;
  const CallOptions& options_;
  Index size_;
  std::vector<bool> valid_;
  std::vector<Index> valid_before_;
};

/// Attention of `shape` over keys [tokens, kv_heads * head_dim] and values [tokens, kv_heads *
/// value_dim] of queries [rows, query_heads * head_dim], which belong to the newest tokens unless
/// options.position says otherwise. Padding (`valid`, one byte a token; empty: there is none) gets
/// no attention, and its own rows are zero. log_sum_exp, if given, becomes log(sum(exp(score)))
/// [rows, query_heads], minus infinity for padding; received, the probabilities that each token got
/// [kv_heads, tokens]. `rank`: how many valid tokens came before each; empty: none was erased.
template <class Scalar>
Matrix<double> dense_attention(const LayerShape& shape, const Matrix<Scalar>& queries,
                               const Matrix<Scalar>& keys, const Matrix<Scalar>& values,
                               const std::vector<std::uint8_t>& valid = {},
                               Matrix<double>* log_sum_exp = nullptr,
                               const CallOptions& options = {}, Matrix<double>* received = nullptr,
                               const std::vector<Index>& rank = {}) {
  const Index d = shape.head_dim, width = shape.value_dim == 0 ? d : shape.value_dim;
  const double scale =
      shape.softmax_scale > 0 ? shape.softmax_scale : 1 / std::sqrt(static_cast<double>(d));
  const Index size = keys.rows();
  const Sight sight(shape, options, size, valid, rank);
  if (received != nullptr) received->setZero(shape.kv_heads, size);
  const Index first = options.position == -1 ? size - queries.rows() : options.position;
  Matrix<double> out = Matrix<double>::Zero(queries.rows(), shape.query_heads * width);
  constexpr double minus_infinity = -std::numeric_limits<double>::infinity();
  if (log_sum_exp != nullptr)
    log_sum_exp->setConstant(queries.rows(), shape.query_heads, minus_infinity);
  for (Index head = 0; head < shape.query_heads; ++head) {
    const std::size_t entry = static_cast<std::size_t>(head);
    const Index kv_head = head / (shape.query_heads / shape.kv_heads);
    const Matrix<double> k = keys.middleCols(kv_head * d, d).template cast<double>();
    const Matrix<double> v = values.middleCols(kv_head * width, width).template cast<double>();
    const Matrix<double> q = queries.middleCols(head * d, d).template cast<double>();
    for (Index row = 0; row < queries.rows(); ++row) {
      const Index position = first + row;
      if (sight.is_padding(row, position)) continue;
      std::vector<double> scores;
      std::vector<Index> seen;
      for (Index token = 0; token < size; ++token) {
        if (!sight.sees(row, position, token)) continue;
        double score = scale * q.row(row).dot(k.row(token));
        if (shape.softcap > 0) score = shape.softcap * std::tanh(score / shape.softcap);
        if (!shape.alibi_slopes.empty())
          score -= shape.alibi_slopes[entry] * static_cast<double>(std::abs(position - token));
        scores.push_back(score);
        seen.push_back(token);
      }
      const bool has_sink = !shape.sink_logits.empty() && position < size;
      if (has_sink) scores.push_back(shape.sink_logits[entry]);
      if (scores.empty()) continue;
      Eigen::ArrayXd p =
          Eigen::Map<Eigen::ArrayXd>(scores.data(), static_cast<Index>(scores.size()));
      const double highest = p.maxCoeff(), sum = (p - highest).exp().sum();
      p = (p - highest).exp() / sum;
      if (log_sum_exp != nullptr) (*log_sum_exp)(row, head) = highest + std::log(sum);
      for (std::size_t i = 0; received != nullptr && i < seen.size(); ++i)
        (*received)(kv_head, seen[i]) += p[static_cast<Index>(i)];
      for (std::size_t i = 0; i < seen.size(); ++i)
        out.row(row).segment(head * width, width) += p[static_cast<Index>(i)] * v.row(seen[i]);
    }
  }
  return out;
}

}  // namespace squat::testing
