// A decoding step of a batch: tokens are appended sequence by sequence, and one call attends for
// all of them, so that a thread that is done with a short sequence helps with a long one.
#include <cstdio>
#include <squat/thread_executor.hpp>
#include <vector>

#include "noise.hpp"

int main() {
  using squat::Index;
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  const std::vector<Index> prompts = {700, 30, 90, 250};
  const auto sequences = static_cast<Index>(prompts.size());
  squat::SQuatCache<float, 2> cache(shape, squat::Config::recommended(2.5), sequences);
  squat::ThreadExecutor executor(/*threads=*/2);
  cache.set_executor(executor);

  const auto append = [&](Index sequence, const noise::Tokens& tokens) {
    squat::CallOptions options;
    options.sequence = sequence;
    cache.update(0, squat::Queries(tokens.queries), squat::Keys(tokens.keys),
                 squat::Values(tokens.values), options);
  };
  for (Index sequence = 0; sequence < sequences; ++sequence)
    append(sequence, noise::tokens(shape, prompts[static_cast<std::size_t>(sequence)],
                                   static_cast<unsigned>(sequence)));

  float largest = 0;
  for (unsigned step = 0; step < 50; ++step) {
    const noise::Tokens next = noise::tokens(shape, sequences, 100 + step);  // a row a sequence
    squat::Matrix<float> out(sequences, next.queries.cols()), alone(1, next.queries.cols());
    std::vector<squat::SequenceQueries<float>> batch;
    for (Index sequence = 0; sequence < sequences; ++sequence) {
      append(sequence, next.rows(sequence, 1));
      squat::CallOptions options;
      options.sequence = sequence;
      batch.push_back({next.queries.row(sequence), out.row(sequence), options});
    }
    cache.attend(0, batch);
    for (Index sequence = 0; sequence < sequences; ++sequence) {
      squat::CallOptions options;
      options.sequence = sequence;
      cache.attend(0, next.queries.row(sequence), alone, options);
      largest = std::max(largest, (out.row(sequence) - alone).cwiseAbs().maxCoeff());
      cache.flush(0, options);
    }
  }
  std::printf(
      "50 steps of %td sequences of %td to %td tokens: one call and one by one differ by %g\n",
      sequences, cache.size(0, {1}), cache.size(0, {0}), static_cast<double>(largest));
  return largest == 0 ? 0 : 1;
}
