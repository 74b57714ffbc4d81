// Attention straight from its definition, in double precision: what the contestants are checked
// against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "attention_shape.hpp"

namespace benchmarks {

/// softmax(scale * q k^T) v per head, causal over the newest `query_rows` tokens.
inline std::vector<double> reference_attention(const AttentionShape& shape, const float* queries,
                                               const float* keys, const float* values) {
  const auto head_dim = static_cast<std::size_t>(shape.head_dim);
  const auto rows = static_cast<std::size_t>(shape.query_rows);
  const auto tokens = static_cast<std::size_t>(shape.tokens);
  std::vector<double> out(rows * shape.query_width(), 0.0);
  std::vector<double> weights(tokens);
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t head = 0; head < static_cast<std::size_t>(shape.query_heads); ++head) {
      const std::size_t visible = tokens - rows + row + 1;
      const std::size_t kv_head = head * static_cast<std::size_t>(shape.kv_heads) /
                                  static_cast<std::size_t>(shape.query_heads);
      const std::size_t offset = row * shape.query_width() + head * head_dim;
      const float* query = queries + offset;
      double greatest = -INFINITY;
      for (std::size_t token = 0; token < visible; ++token) {
        const float* key = keys + token * shape.kv_width() + kv_head * head_dim;
        double product = 0;
        for (std::size_t j = 0; j < head_dim; ++j)
          product += static_cast<double>(query[j]) * static_cast<double>(key[j]);
        weights[token] = product * static_cast<double>(shape.softmax_scale());
        greatest = std::max(greatest, weights[token]);
      }
      double sum = 0;
      for (std::size_t token = 0; token < visible; ++token)
        sum += weights[token] = std::exp(weights[token] - greatest);
      for (std::size_t token = 0; token < visible; ++token) {
        const float* value = values + token * shape.kv_width() + kv_head * head_dim;
        for (std::size_t j = 0; j < head_dim; ++j)
          out[offset + j] += weights[token] / sum * static_cast<double>(value[j]);
      }
    }
  return out;
}

/// |actual - expected| / |expected|, Euclidean over all elements.
inline double relative_error(const std::vector<float>& actual,
                             const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double delta = static_cast<double>(actual[i]) - expected[i];
    difference += delta * delta;
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace benchmarks
