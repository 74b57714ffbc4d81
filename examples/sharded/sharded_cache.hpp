// One sequence's cache, its tokens spread over the ranks of an MPI program.
#pragma once

#include <chrono>
#include <cstring>
#include <sstream>

#include "ranks.hpp"

namespace sharded {

/// The moments of all ranks' queries, added in the order of ranks: the same to the bit on all.
inline squat::QueryMoments sum_over_ranks(Ranks& ranks, const squat::QueryMoments& own) {
  std::ostringstream file;
  own.save(file);
  squat::QueryMoments sum(own.shape());
  for (const std::string& one : ranks.gather_on_all(file.str())) {
    std::istringstream in(one);
    sum.add(squat::QueryMoments::load(in, own.shape()));
  }
  return sum;
}

/// Every rank holds the tokens that follow those of the rank before; the last one takes new tokens.
class ShardedCache {
 public:
  using Cache = squat::SQuatCache<float, 2>;

  /// This rank's tokens begin with token `first` of the sequence.
  ShardedCache(Ranks& ranks, const squat::ModelShape& shape, squat::Config config, Index first)
      : ranks_(ranks), first_(first), cache_(shape, of_rank(config, ranks.rank())) {}

  /// This rank's tokens: to calibrate, append and flush.
  Cache& own() { return cache_; }

  /// Quantizes all of the prompt, of which every rank holds a multiple of residual_length tokens;
  /// all ranks call it. A cache keeps its newest values exact, but those of a part are not the
  /// sequence's newest. The next rank's first tokens push them out of the residual, and go: so the
  /// codes are those that one cache of all tokens has.
  void quantize_prompt(Index layer) {
    const Index begun = cache_.size(layer), block = cache_.config().residual_length;
    const Matrix<float> keys = ranks_.from_next(cache_.keys(layer).topRows(block));
    const Matrix<float> values = ranks_.from_next(cache_.values(layer).topRows(block));
    cache_.flush(layer);
    if (ranks_.rank() == ranks_.last()) return;
    cache_.update(layer, squat::Queries(Matrix<float>::Zero(block, query_width())),
                  squat::Keys(keys), squat::Values(values));
    cache_.flush(layer);
    cache_.truncate(begun);
  }

  /// Causal attention over the tokens of all ranks, which all call it. `queries` [rows, query_heads
  /// * head_dim] are of rank `root` and begin with token `position` of the sequence; on other ranks
  /// only their shape counts. The output is right on `root`. Queries and outputs travel as Wire,
  /// log-sum-exps as float.
  template <class Wire>
  Matrix<float> attend(Index layer, int root, Index position, const Matrix<float>& queries) {
    Matrix<Wire> sent = queries.cast<Wire>();
    ranks_.broadcast(sent, root);
    const Matrix<Wire> parts =
        ranks_.gather(attend_to_own<Wire>(layer, position, sent.template cast<float>()), root);
    Matrix<float> out(queries.rows(), queries.cols());
    if (ranks_.rank() != root) return out;
    squat::MergedAttention<float> merged(cache_.shape(), queries.rows());
    Matrix<float> log_sum_exp(queries.rows(), query_heads());
    for (Index first = 0; first < parts.rows(); first += queries.rows()) {
      for (Index i = 0; i < queries.rows(); ++i)
        std::memcpy(log_sum_exp.row(i).data(), &parts(first + i, query_width()),
                    sizeof(float) * static_cast<std::size_t>(query_heads()));
      merged.add(parts.block(first, 0, queries.rows(), query_width()).template cast<float>(),
                 log_sum_exp);
    }
    merged.write(out);
    return out;
  }

  /// Seconds that this rank spent on attention to its own tokens.
  double seconds() const { return seconds_; }

 private:
  /// The sequence's first tokens are those that stay exact, not every rank's.
  static squat::Config of_rank(squat::Config config, int rank) {
    if (rank > 0) config.full_precision_tokens = 0;
    return config;
  }

  Index query_heads() const { return cache_.shape().query_heads; }
  Index query_width() const { return query_heads() * cache_.shape().head_dim; }

  /// What a rank answers: per row the output and, in the columns behind it, its log-sum-exps.
  template <class Wire>
  Matrix<Wire> attend_to_own(Index layer, Index position, const Matrix<float>& queries) {
    const auto start = std::chrono::steady_clock::now();
    const Index rows = queries.rows();
    Matrix<float> out = Matrix<float>::Zero(rows, query_width());
    Matrix<float> log_sum_exp =
        Matrix<float>::Constant(rows, query_heads(), -std::numeric_limits<float>::infinity());
    squat::CallOptions options;
    options.position = position - first_;
    options.log_sum_exp = log_sum_exp.data();
    if (options.position >= 0) cache_.attend(layer, queries, out, options);  // else all is to come
    constexpr Index columns = sizeof(float) / sizeof(Wire);
    Matrix<Wire> part(rows, query_width() + columns * query_heads());
    part.leftCols(query_width()) = out.cast<Wire>();
    for (Index i = 0; i < rows; ++i)
      std::memcpy(static_cast<void*>(&part(i, query_width())), log_sum_exp.row(i).data(),
                  sizeof(float) * static_cast<std::size_t>(query_heads()));
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return part;
  }

  Ranks& ranks_;
  Index first_;
  Cache cache_;
  double seconds_ = 0;
};

}  // namespace sharded
