// The attention that a contestant computes, and data to compute it on.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace benchmarks {

/// Sizes of one attention layer. Keys and values are [tokens, kv_heads * head_dim], queries and
/// outputs [query_rows, query_heads * head_dim], all row-major.
struct AttentionShape {
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int tokens = 0;
  int query_rows = 1;  ///< 1 decodes; more are the newest tokens, under a causal mask

  std::size_t kv_width() const { return static_cast<std::size_t>(kv_heads) * head_dim; }
  std::size_t query_width() const { return static_cast<std::size_t>(query_heads) * head_dim; }
  float softmax_scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
  std::string name() const {
    return std::to_string(query_heads) + "/" + std::to_string(kv_heads) + " heads, d " +
           std::to_string(head_dim) + ", " + std::to_string(tokens) + " tokens";
  }
};

/// `count` samples of the standard normal distribution, the same ones for the same `seed`.
inline std::vector<float> normal_samples(std::size_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> samples(count);
  for (float& sample : samples) sample = normal(generator);
  return samples;
}

}  // namespace benchmarks
