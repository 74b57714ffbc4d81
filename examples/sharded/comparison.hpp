// Shards against one cache that holds all tokens.
#pragma once

#include <algorithm>

#include "sequence.hpp"
#include "sharded_cache.hpp"

namespace sharded {

/// What a comparison measured.
struct Result {
  // Largest differences between the outputs of shards and of one cache, relative to the largest
  // value that attention can give back.
  double prompt_difference = 0;
  double decoding_difference = 0;
  // |output - that of full precision| / |that of full precision| in decoding.
  double error_of_one = 0;
  double error_of_shards = 0;
  // Of one decoded token and layer: on all links together, and microseconds.
  Index bytes_of_queries = 0;
  Index bytes_of_outputs = 0;
  double time_of_one = 0;
  double time_of_slowest_part = 0;  ///< attention of one rank to its own tokens
  double time_of_shards = 0;        ///< messages included
};

/// Norm of a difference relative to a reference, over all rows that were added.
class RelativeError {
 public:
  void add(const Matrix<float>& actual, const Matrix<float>& reference) {
    difference_ += (actual - reference).squaredNorm();
    reference_ += reference.squaredNorm();
  }
  double value() const { return std::sqrt(difference_ / reference_); }

 private:
  double difference_ = 0, reference_ = 0;
};

/// Deals a sequence's prompt out to the ranks, and compares with one cache that each rank has as
/// well. Queries and outputs travel as Wire.
template <class Wire>
class Comparison {
 public:
  using Cache = ShardedCache::Cache;

  /// With `one_metric` all keys are quantized under that of all ranks' queries, else each rank
  /// fits its own.
  Comparison(Ranks& ranks, const Sequence& sequence, const squat::Config& config, bool one_metric)
      : ranks_(ranks),
        sequence_(sequence),
        block_(config.residual_length),
        own_(sequence.tokens(first_token(ranks.rank()), tokens_of(ranks.rank()))),
        shards_(ranks, sequence.shape(), config, first_token(ranks.rank())),
        one_(sequence.shape(), config),
        full_(sequence.shape(), unquantized(sequence.size())) {
    if (tokens_of(0) == 0)
      throw std::runtime_error("the prompt has " +
                               std::to_string(sequence.prompt_tokens() / block_) + " blocks of " +
                               std::to_string(block_) + " tokens; there are " +
                               std::to_string(ranks.count()) + " ranks");
    if (!one_metric) return;
    squat::QueryMoments moments(sequence.shape());
    moments.add<float>(layer, own_.queries);
    moments = sum_over_ranks(ranks, moments);
    shards_.own().calibrate(moments);
    one_.calibrate(moments);
  }

  Result run() {
    append(shards_.own(), own_);
    for (Cache* cache : {&one_, &full_})
      append(*cache, sequence_.tokens(0, sequence_.prompt_tokens()));
    attend_prompt();
    shards_.quantize_prompt(layer);
    one_.flush(layer);
    decode();
    return result_;
  }

 private:
  static constexpr Index layer = 0;

  /// Whole blocks go round, so that none crosses ranks.
  Index first_token(int rank) const {
    return sequence_.prompt_tokens() / block_ * rank / ranks_.count() * block_;
  }
  Index tokens_of(int rank) const { return first_token(rank + 1) - first_token(rank); }

  /// So many tokens never leave the residual.
  static squat::Config unquantized(Index tokens) {
    squat::Config config;
    config.residual_length = (tokens / config.token_group_size + 1) * config.token_group_size;
    return config;
  }

  static void append(Cache& cache, const Tokens& tokens) {
    cache.update(layer, squat::Queries(tokens.queries), squat::Keys(tokens.keys),
                 squat::Values(tokens.values));
  }

  static Matrix<float> attend(const Cache& cache, const Matrix<float>& queries, Index position) {
    Matrix<float> out(queries.rows(), queries.cols());
    squat::CallOptions options;
    options.position = position;
    cache.attend(layer, queries, out, options);
    return out;
  }

  double difference(const Matrix<float>& a, const Matrix<float>& b) const {
    return static_cast<double>((a - b).cwiseAbs().maxCoeff() / sequence_.largest_value());
  }

  static double now() { return 1e6 * MPI_Wtime(); }

  /// The last tokens of each rank's part attend to the prompt so far, rank by rank.
  void attend_prompt() {
    Index rows = 256;
    for (int rank = 0; rank < ranks_.count(); ++rank) rows = std::min(rows, tokens_of(rank));
    const Matrix<float> queries = own_.queries.bottomRows(rows);
    for (int root = 0; root < ranks_.count(); ++root) {
      const Index position = first_token(root + 1) - rows;
      const Matrix<float> out = shards_.attend<Wire>(layer, root, position, queries);
      if (ranks_.rank() == root)
        result_.prompt_difference = difference(out, attend(one_, queries, position));
    }
    result_.prompt_difference = ranks_.largest(result_.prompt_difference);
  }

  void decode() {
    const int root = ranks_.last();
    const bool is_root = ranks_.rank() == root;
    const Index tokens = sequence_.size() - sequence_.prompt_tokens();
    const double begun = shards_.seconds();
    const Index down = ranks_.broadcast_bytes(), up = ranks_.gathered_bytes();
    RelativeError of_one, of_shards;
    for (Index token = sequence_.prompt_tokens(); token < sequence_.size(); ++token) {
      const Tokens next = sequence_.tokens(token, 1);
      if (is_root)
        for (Cache* cache : {&shards_.own(), &one_, &full_}) append(*cache, next);
      const double start = now();
      const Matrix<float> out = shards_.attend<Wire>(layer, root, token, next.queries);
      const double middle = now();
      if (!is_root) continue;
      const Matrix<float> expected = attend(one_, next.queries, token);
      result_.time_of_one += (now() - middle) / static_cast<double>(tokens);
      result_.time_of_shards += (middle - start) / static_cast<double>(tokens);
      const Matrix<float> full = attend(full_, next.queries, token);
      of_one.add(expected, full);
      of_shards.add(out, full);
      result_.decoding_difference =
          std::max(result_.decoding_difference, difference(out, expected));
      for (Cache* cache : {&shards_.own(), &one_}) cache->flush(layer);
    }
    result_.time_of_slowest_part =
        1e6 * ranks_.largest(shards_.seconds() - begun) / static_cast<double>(tokens);
    result_.bytes_of_queries = (ranks_.broadcast_bytes() - down) / tokens;
    result_.bytes_of_outputs = (ranks_.gathered_bytes() - up) / tokens;
    result_.error_of_one = of_one.value();
    result_.error_of_shards = of_shards.value();
  }

  Ranks& ranks_;
  const Sequence& sequence_;
  Index block_;
  Tokens own_;  // of this rank, in the prompt
  ShardedCache shards_;
  Cache one_;
  Cache full_;
  Result result_;
};

}  // namespace sharded
