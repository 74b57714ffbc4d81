// How long the attention of one new token takes.
#pragma once

#include <algorithm>
#include <chrono>

#include "layer_states.hpp"

namespace quickstart {

/// The attention of one token in single precision: for every head two products and a softmax.
class FloatAttention {
 public:
  /// keys, values: [tokens, kv_heads * head_dim].
  FloatAttention(const squat::ModelShape& shape, Matrix<float> keys, Matrix<float> values)
      : shape_(shape), keys_(std::move(keys)), values_(std::move(values)) {}

  /// query, out: [1, query_heads * head_dim].
  void attend(const Matrix<float>& query, Matrix<float>& out) {
    const Index d = shape_.head_dim;
    const float scale = 1 / std::sqrt(static_cast<float>(d));
    for (Index head = 0; head < shape_.query_heads; ++head) {
      const Index kv = head / shape_.heads_per_kv() * d;
      auto output = out.row(0).segment(head * d, d).transpose();
      weights_.noalias() =
          keys_.middleCols(kv, d) * (scale * query.row(0).segment(head * d, d)).transpose();
      weights_ = (weights_.array() - weights_.maxCoeff()).exp();
      output.noalias() = values_.middleCols(kv, d).transpose() * weights_;
      output /= weights_.sum();
    }
  }

 private:
  squat::ModelShape shape_;
  Matrix<float> keys_;
  Matrix<float> values_;
  Eigen::VectorXf weights_;  // [tokens]
};

/// Microseconds, medians.
struct DecodeTime {
  double full_precision = 0;  ///< FloatAttention
  double cached = 0;          ///< SQuatCache::attend
};

/// Times the attention of single held-out tokens over the prompt, which `cache` holds. The two take
/// turns, so that whatever else the machine does meets both.
template <class Cache>
DecodeTime time_decode(const LayerStates& states, const Cache& cache) {
  constexpr Index repetitions = 101;
  FloatAttention exact(states.shape, states.keys.topRows(states.prompt_tokens),
                       states.values.topRows(states.prompt_tokens));
  Matrix<float> out(1, states.queries.cols());
  const auto microseconds = [](const auto& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
        .count();
  };
  std::vector<double> exact_times, cached_times;
  for (Index i = 0; i < repetitions; ++i) {
    const Matrix<float> query =
        states.queries.row(states.prompt_tokens + i % states.held_out_tokens());
    exact_times.push_back(microseconds([&] { exact.attend(query, out); }));
    cached_times.push_back(microseconds([&] { cache.attend(0, query, out); }));
  }
  const auto median = [](std::vector<double>& times) {
    const auto middle = times.begin() + repetitions / 2;
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  };
  return {median(exact_times), median(cached_times)};
}

}  // namespace quickstart
