// Work on threads that wait for it anyway.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <squat/executor.hpp>
#include <thread>
#include <vector>

namespace squat_llama {

/// A fixed team of threads enters the same operations together, as ggml's do: in each, one of them
/// leads and may run() tasks, and the others help it until it ends. All must have left an operation
/// before any enters the next.
class TeamExecutor : public squat::Executor {
 public:
  explicit TeamExecutor(int threads) : operations_(static_cast<std::size_t>(threads)) {}

  /// The leader, thread 0, does `work`, in which it may run().
  template <class Work>
  void lead(Work work) {
    work();
    ended_.store(++operations_.front().count);
  }

  /// Any other thread of the team. Returns when the leader has ended.
  void help(int thread) {
    const std::uint64_t operation = ++operations_[static_cast<std::size_t>(thread)].count;
    while (ended_.load() < operation) {
      if (is_open_.load()) {
        // The leader closes, then waits for who is inside: whoever enters must look again.
        ++inside_;
        if (is_open_.load()) take_tasks();
        --inside_;
      }
      std::this_thread::yield();
    }
  }

  void run(squat::Index tasks, const std::function<void(squat::Index)>& task) override {
    task_ = &task;
    tasks_ = tasks;
    next_.store(0);
    is_open_.store(operations_.size() > 1 && tasks > 1);
    take_tasks();
    is_open_.store(false);
    while (inside_.load() > 0) std::this_thread::yield();
  }

 private:
  void take_tasks() {
    for (squat::Index i = next_++; i < tasks_; i = next_++) (*task_)(i);
  }

  struct alignas(64) Count {  // each thread writes its own
    std::uint64_t count = 0;
  };
  std::vector<Count> operations_;  ///< that a thread has entered
  std::atomic<std::uint64_t> ended_{0};
  const std::function<void(squat::Index)>* task_ = nullptr;
  squat::Index tasks_ = 0;
  std::atomic<squat::Index> next_{0};
  std::atomic<bool> is_open_{false};
  std::atomic<int> inside_{0};
};

}  // namespace squat_llama
