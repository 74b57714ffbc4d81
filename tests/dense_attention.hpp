// Attention as its formula says, in double.
#pragma once

#include <cmath>
#include <limits>
#include <squat/config.hpp>
#include <vector>

namespace squat::testing {

/// Causal softmax(Q K^T * scale) V. queries [rows, query_heads * head_dim] belong to the newest
/// tokens of keys and values [tokens, kv_heads * head_dim]. Tokens that `valid` (one byte a token;
/// empty: all are) leaves out receive no attention, and their own rows are zero. log_sum_exp, if
/// given, becomes log(sum(exp(score))) [rows, query_heads], minus infinity for padding.
template <class Scalar>
Matrix<double> dense_attention(const ModelShape& shape, const Matrix<Scalar>& queries,
                               const Matrix<Scalar>& keys, const Matrix<Scalar>& values,
                               const std::vector<std::uint8_t>& valid = {},
                               Matrix<double>* log_sum_exp = nullptr) {
  const Index d = shape.head_dim;
  const double scale =
      shape.softmax_scale > 0 ? shape.softmax_scale : 1 / std::sqrt(static_cast<double>(d));
  const auto is_valid = [&](Index token) {
    return valid.empty() || valid[static_cast<std::size_t>(token)] != 0;
  };
  Matrix<double> out = Matrix<double>::Zero(queries.rows(), queries.cols());
  if (log_sum_exp != nullptr)
    log_sum_exp->setConstant(queries.rows(), shape.query_heads,
                             -std::numeric_limits<double>::infinity());
  for (Index head = 0; head < shape.query_heads; ++head) {
    const Index kv_head = head / shape.heads_per_kv();
    const Matrix<double> k = keys.middleCols(kv_head * d, d).template cast<double>();
    const Matrix<double> v = values.middleCols(kv_head * d, d).template cast<double>();
    const Matrix<double> q = queries.middleCols(head * d, d).template cast<double>();
    for (Index row = 0; row < queries.rows(); ++row) {
      const Index position = keys.rows() - queries.rows() + row;
      if (!is_valid(position)) continue;
      std::vector<Index> seen;
      for (Index token = 0; token <= position; ++token)
        if (is_valid(token)) seen.push_back(token);
      Eigen::VectorXd p(static_cast<Index>(seen.size()));
      for (Index i = 0; i < p.size(); ++i)
        p[i] = scale * q.row(row).dot(k.row(seen[static_cast<std::size_t>(i)]));
      const double highest = p.maxCoeff(), sum = (p.array() - highest).exp().sum();
      p = (p.array() - highest).exp() / sum;
      if (log_sum_exp != nullptr) (*log_sum_exp)(row, head) = highest + std::log(sum);
      for (Index i = 0; i < p.size(); ++i)
        out.row(row).segment(head * d, d) += p[i] * v.row(seen[static_cast<std::size_t>(i)]);
    }
  }
  return out;
}

}  // namespace squat::testing
