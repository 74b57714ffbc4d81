// Threads at two levels: several write to one cache, each to a sequence of its own, and others
// help all of them with attention. The output is that of one thread, bit for bit.
#include <cstdio>
#include <squat/thread_executor.hpp>
#include <thread>

#include "noise.hpp"

namespace {

/// Appends a prompt and then tokens one by one, and returns the attention of the last.
squat::Matrix<float> generate(squat::SQuatCache<float, 2>& cache, squat::Index sequence) {
  const noise::Tokens text = noise::tokens(cache.shape(), 600, static_cast<unsigned>(sequence));
  squat::Matrix<float> out;
  for (squat::Index first = 0, count = 500; first < 600; first += count, count = 1) {
    const noise::Tokens next = text.rows(first, count);
    out.resize(count, text.queries.cols());
    cache.attention(0, squat::Queries(next.queries), squat::Keys(next.keys),
                    squat::Values(next.values), out, {sequence});
  }
  return out;
}

}  // namespace

int main() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  squat::Config config = squat::Config::recommended(2.5);
  config.shared_svd = false;  // it would matter which thread comes first
  constexpr squat::Index sequences = 4;
  squat::SQuatCache<float, 2> cache(shape, config, sequences), serial(shape, config, sequences);
  squat::ThreadExecutor executor(/*threads=*/3);
  cache.set_executor(executor);

  squat::Matrix<float> outs[sequences];
  std::vector<std::thread> threads;
  for (squat::Index i = 0; i < sequences; ++i)
    threads.emplace_back([&, i] { outs[i] = generate(cache, i); });
  for (std::thread& thread : threads) thread.join();
  int same = 0;
  for (squat::Index i = 0; i < sequences; ++i) same += outs[i] == generate(serial, i) ? 1 : 0;
  std::printf("4 threads and 2 more: %d of 4 sequences are those of one thread\n", same);
  return same == sequences ? 0 : 1;
}
