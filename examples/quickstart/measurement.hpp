// What quantizing a prompt does to the attention of the queries that follow it.
#pragma once

#include <numeric>

#include "dense_attention.hpp"
#include "layer_states.hpp"

namespace quickstart {

/// A cache against full precision.
struct Measurement {
  double bits_per_element = 0;        ///< of keys and values, scales and zero points included
  Index packed_bytes = 0;             ///< codes, scales, zero points and headers
  Index other_bytes = 0;              ///< the rest of the cache: residual, feedback tables, objects
  std::vector<double> kl_divergence;  ///< of the attention weights, per query head (nats)
  double output_error = 0;            ///< relative L2 error of the attention output

  double mean_kl_divergence() const {
    return std::accumulate(kl_divergence.begin(), kl_divergence.end(), 0.0) /
           static_cast<double>(kl_divergence.size());
  }
};

/// Attention of the held-out queries to the prompt, in full precision.
inline DenseAttention exact_attention(const LayerStates& states) {
  return attend_densely(states.shape, states.queries.bottomRows(states.held_out_tokens()),
                        states.keys.topRows(states.prompt_tokens),
                        states.values.topRows(states.prompt_tokens));
}

/// A cache that holds the prompt, all of it quantized.
inline squat::SQuatCache<float, 2> cache_prompt(const LayerStates& states,
                                                const squat::Config& config) {
  squat::SQuatCache<float, 2> cache(states.shape, config);
  const Index prompt = states.prompt_tokens, more = states.held_out_tokens();
  cache.update(0, squat::Queries(states.queries.topRows(prompt)),
               squat::Keys(states.keys.topRows(prompt)),
               squat::Values(states.values.topRows(prompt)));
  // The newest values are exact. The tokens that follow push those of the prompt out, then go.
  cache.update(0, squat::Queries(states.queries.bottomRows(more)),
               squat::Keys(states.keys.bottomRows(more)),
               squat::Values(states.values.bottomRows(more)));
  cache.flush(0);
  cache.truncate(prompt);
  return cache;
}

/// Quantizes the prompt, keys and values alike, and attends to it with the held-out queries.
inline Measurement measure(const LayerStates& states, const DenseAttention& exact,
                           const squat::Config& config) {
  const squat::SQuatCache<float, 2> cache = cache_prompt(states, config);
  const Matrix<float> queries = states.queries.bottomRows(states.held_out_tokens());

  Measurement measurement;
  const squat::MemoryUsage memory = cache.memory();
  const Index elements = 2 * states.prompt_tokens * states.shape.kv_heads * states.shape.head_dim;
  measurement.packed_bytes = memory.codes + memory.scales + memory.headers;
  measurement.other_bytes = memory.total() - measurement.packed_bytes;
  measurement.bits_per_element =
      8 * static_cast<double>(measurement.packed_bytes) / static_cast<double>(elements);
  measurement.kl_divergence =
      kl_divergence(exact, attend_densely(states.shape, queries, cache.keys(0), cache.values(0)));

  Matrix<float> output(queries.rows(), queries.cols());
  // Several rows at once would be the newest tokens, which see no token after themselves.
  for (Index i = 0; i < queries.rows(); ++i) cache.attend(0, queries.row(i), output.row(i));
  measurement.output_error = relative_error(exact.output, output.cast<double>());
  return measurement;
}

}  // namespace quickstart
