// Same input, same bytes: again, beside others, and on any number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "small_cache.hpp"

namespace squat::testing {
namespace {

/// Everything that a run of calls puts out.
std::vector<Rows> run_calls(Executor* executor, RopePairing pairing = RopePairing::none) {
  const Tokens prompt(4500, 16), decoded(40, 17);
  ModelShape turning = shape;
  turning.rope.pairing = pairing;
  Cache cache(turning, strong_feedback());
  if (executor != nullptr) cache.set_executor(*executor);
  std::vector<Rows> outputs;
  update(cache, prompt);
  outputs.push_back(attend(cache, prompt.queries.bottomRows(70)));
  for (Index i = 0; i < 40; ++i) {
    update(cache, decoded, i, 1);
    outputs.push_back(attend(cache, decoded.queries.row(i)));
  }
  outputs.push_back(cache.keys(0));
  outputs.push_back(cache.values(0));
  return outputs;
}

bool same_all(const std::vector<Rows>& a, const std::vector<Rows>& b) {
  bool all = a.size() == b.size();
  for (std::size_t i = 0; all && i < a.size(); ++i) all = same(a[i], b[i]);
  return all;
}

TEST(Determinism, GivesTheSameBytesAgain) {
  const std::vector<Rows> first = run_calls(nullptr);
  std::vector<std::vector<Rows>> again(3);
  std::vector<std::thread> threads;
  for (auto& outputs : again) threads.emplace_back([&] { outputs = run_calls(nullptr); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& outputs : again) EXPECT_TRUE(same_all(outputs, first));
}

/// As many threads at once as there are tasks, the last task first.
class ThreadForEachTask : public Executor {
 public:
  void run(Index tasks, const std::function<void(Index)>& task) override {
    most_tasks = std::max(most_tasks, tasks);
    std::vector<std::thread> threads;
    for (Index i = tasks; i-- > 0;) threads.emplace_back(task, i);
    for (std::thread& thread : threads) thread.join();
  }
  Index most_tasks = 0;
};

TEST(Determinism, GivesTheSameBytesOnManyThreads) {
  ThreadForEachTask executor;
  for (const RopePairing pairing : {RopePairing::halves, RopePairing::none})
    EXPECT_TRUE(same_all(run_calls(&executor, pairing), run_calls(nullptr, pairing)));
  EXPECT_GT(executor.most_tasks, shape.kv_heads);  // tokens were divided too
}

}  // namespace
}  // namespace squat::testing
