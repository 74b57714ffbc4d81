// How work spreads over threads: the caller decides.
#pragma once

#include <algorithm>
#include <functional>
#include <squat/matrix.hpp>
#include <thread>

namespace squat {

/// Runs independent tasks, on whatever threads it likes. Neither threads nor their number ever
/// change a result.
///
/// What an executor may do: run tasks in any order, on any threads, the calling one included; take
/// several calls of run() at the same time; and while a thread waits inside run(), let it take up
/// other work, tasks of other calls and whole calls of the cache included (work stealing, nesting).
/// Tasks never throw, never allocate, never call the executor, and wait for nothing but tasks that
/// run already.
class Executor {
 public:
  virtual ~Executor() = default;
  /// Calls task(0) to task(tasks - 1), each once, and returns when all are done. More calls do
  /// nothing; after fewer of them attention fails with squat::Error. What run() throws, when no
  /// task is under way any more, goes to the caller of attention: the cache is as it was, but with
  /// the tokens that SQuatCache::attention() appended.
  virtual void run(Index tasks, const std::function<void(Index)>& task) = 0;
  /// How many tasks of one run() are under way at the same time at most: so many get memory of
  /// their own before. Where it is too low tasks wait for each other; results are the same.
  virtual Index concurrency() const {
    return std::max<Index>(std::thread::hardware_concurrency(), 1);
  }
};

/// All tasks in turn on the calling thread.
class SerialExecutor : public Executor {
 public:
  void run(Index tasks, const std::function<void(Index)>& task) override {
    for (Index i = 0; i < tasks; ++i) task(i);
  }
  Index concurrency() const override { return 1; }
};

}  // namespace squat
