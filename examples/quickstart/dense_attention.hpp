// Attention with nothing left out, in double: what a cache is measured against.
#pragma once

#include <cmath>
#include <squat/squat.hpp>
#include <vector>

namespace quickstart {

using squat::Index;
using squat::Matrix;

/// Attention of every query to every key.
struct DenseAttention {
  std::vector<Matrix<double>> weights;  ///< per query head [queries, tokens]; rows sum to 1
  Matrix<double> output;                ///< [queries, query_heads * head_dim]
};

/// softmax(Q K^T / sqrt(head_dim)) V. queries: [queries, query_heads * head_dim]; keys, values:
/// [tokens, kv_heads * head_dim].
inline DenseAttention attend_densely(const squat::ModelShape& shape, const Matrix<float>& queries,
                                     const Matrix<float>& keys, const Matrix<float>& values) {
  const Index d = shape.head_dim;
  DenseAttention attention;
  attention.output.resize(queries.rows(), queries.cols());
  for (Index head = 0; head < shape.query_heads; ++head) {
    const Index kv = head / shape.heads_per_kv() * d;
    const Matrix<double> query = queries.middleCols(head * d, d).cast<double>();
    const Matrix<double> key = keys.middleCols(kv, d).cast<double>();
    Matrix<double> weights = query * key.transpose() / std::sqrt(static_cast<double>(d));
    weights.colwise() -= weights.rowwise().maxCoeff().eval();
    weights = weights.array().exp();
    weights.array().colwise() /= weights.rowwise().sum().array().eval();
    attention.output.middleCols(head * d, d) = weights * values.middleCols(kv, d).cast<double>();
    attention.weights.push_back(std::move(weights));
  }
  return attention;
}

/// KL(exact || approximate) of the attention weights, in nats: per query head, the mean over
/// queries.
inline std::vector<double> kl_divergence(const DenseAttention& exact,
                                         const DenseAttention& approximate) {
  std::vector<double> divergence;
  for (std::size_t head = 0; head < exact.weights.size(); ++head) {
    const auto p = exact.weights[head].array(), q = approximate.weights[head].array();
    // A weight that is zero in double precision adds nothing.
    divergence.push_back((p > 0).select(p * (p / q).log(), 0.0).rowwise().sum().mean());
  }
  return divergence;
}

/// |approximate - exact| / |exact|, Euclidean norms over all elements.
inline double relative_error(const Matrix<double>& exact, const Matrix<double>& approximate) {
  return (approximate - exact).norm() / exact.norm();
}

}  // namespace quickstart
