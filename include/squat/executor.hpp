// How work spreads over threads: the caller decides.
#pragma once

#include <functional>
#include <squat/matrix.hpp>

namespace squat {

/// Runs independent tasks, on whatever threads it likes. The number of threads never changes a
/// result.
class Executor {
 public:
  virtual ~Executor() = default;
  /// Calls task(0) to task(tasks - 1), each once, and returns when all are done. Tasks do not
  /// throw.
  virtual void run(Index tasks, const std::function<void(Index)>& task) = 0;
};

/// All tasks in turn on the calling thread.
class SerialExecutor : public Executor {
 public:
  void run(Index tasks, const std::function<void(Index)>& task) override {
    for (Index i = 0; i < tasks; ++i) task(i);
  }
};

}  // namespace squat
