// Keys and values that are not packed.
#pragma once

#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail {

/// Up to `chunk` keys or values of one kv head, in single precision: their products with query
/// rows, and their sum by probability.
template <class Scalar>
class PlainRows {
 public:
  static constexpr Index chunk = 32;

  /// Takes `count` rows, row(t) [kv_heads * head_dim] of Scalar.
  template <class Row>
  void gather(Index count, Index head, Index head_dim, const Row& row) {
    count_ = count;
    head_dim_ = head_dim;
    for (Index t = 0; t < count; ++t) {
      const Scalar* const from = row(t) + head * head_dim;
      for (Index c = 0; c < head_dim; ++c) rows_[t * head_dim + c] = static_cast<float>(from[c]);
    }
  }

  /// scores[t] = row t . query [head_dim].
  void score(const float* query, float* scores) const {
    kernels_.dot_rows(rows_, count_, head_dim_, query, scores);
  }
  /// out [head_dim] += sum_t weights[t] row t.
  void add(const float* weights, float* out) const {
    kernels_.add_rows(rows_, count_, head_dim_, weights, out);
  }

 private:
  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index count_ = 0;
  Index head_dim_ = 0;
  alignas(64) float rows_[chunk * simd::max_head_dim];
};

}  // namespace squat::detail
