// Flash attention of ik_llama.cpp, a fork of llama.cpp with kernels of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "attention_shape.hpp"

namespace benchmarks {

/// Several layers of a cache of ik_llama.cpp with the same contents, [kv_heads, tokens, head_dim].
/// It is in a shared library of its own, since its functions have the names of ggml's.
class IkAttention {
 public:
  /// Quantizes `keys` and `values` ([tokens, kv_heads * head_dim]). `type` is "f16", "q8_0", "q4_0"
  /// or "q8_KV", for keys and values alike; fails on others.
  IkAttention(const AttentionShape& shape, const std::string& type, const float* keys,
              const float* values, int layers, int threads);
  ~IkAttention();

  /// `queries` and `out` are [query_rows, query_heads * head_dim].
  void run(int layer, const float* queries, float* out);

  /// Keys and values of one token and layer.
  static std::size_t bytes_per_token(const AttentionShape& shape, const std::string& type);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace benchmarks
