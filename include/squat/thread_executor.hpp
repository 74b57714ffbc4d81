// Tasks on threads of its own. Not part of squat.hpp, since many engines have threads already.
#pragma once

#include <squat/detail/macros_begin.hpp>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <squat/error.hpp>
#include <squat/executor.hpp>
#include <thread>
#include <vector>

namespace squat {

/// Spreads tasks over threads that it starts and keeps, and the calling one. Several threads may
/// call run() at the same time: each is helped by the threads that are free.
class ThreadExecutor : public Executor {
 public:
  /// `threads` work on the tasks of one caller, the calling one included, so that one fewer is
  /// started: 1 to 4096. Fails where the system gives no more threads.
  explicit ThreadExecutor(Index threads = std::max<Index>(std::thread::hardware_concurrency(), 1))
      : ThreadExecutor(NoThreads{}) {  // now the destructor ends what has started, whatever fails
    require(threads >= 1 && threads <= 4096, "threads is ", threads, "; it must be 1 to 4096");
    for (Index i = 1; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~ThreadExecutor() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadExecutor(const ThreadExecutor&) = delete;
  ThreadExecutor& operator=(const ThreadExecutor&) = delete;

  void run(Index tasks, const std::function<void(Index)>& task) override {
    Run run{task, tasks};
    const bool is_shared = tasks > 1 && !threads_.empty();
    if (is_shared) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        run.next_run = runs_;
        runs_ = &run;
        ++shared_;
      }
      wake_.notify_all();
    }
    run.work();
    if (!is_shared) return;
    std::unique_lock<std::mutex> lock(mutex_);
    Run** link = &runs_;
    while (*link != &run) link = &(*link)->next_run;
    *link = run.next_run;  // from here on nobody else begins to help
    lock.unlock();
    const auto is_left = [&] { return run.helpers.load() == 0; };
    if (spin_until(is_left)) return;
    lock.lock();
    left_.wait(lock, is_left);
  }

  Index concurrency() const override { return static_cast<Index>(threads_.size()) + 1; }

 private:
  struct NoThreads {};
  explicit ThreadExecutor(NoThreads) {}

  /// A call of run(), on the stack of its caller.
  struct Run {
    const std::function<void(Index)>& task;
    const Index tasks;
    std::atomic<Index> next{0};
    std::atomic<Index> helpers{0};  // inside work(), the caller left out
    Run* next_run = nullptr;        // guarded by mutex_

    bool has_tasks() const { return next.load() < tasks; }
    void work() {
      while (has_tasks()) {
        const Index i = next++;
        if (i < tasks) task(i);
      }
    }
  };

  /// Returns whether it came true: decoding waits for microseconds, less than waking takes.
  template <class Predicate>
  static bool spin_until(const Predicate& predicate) {
    for (int i = 0; i < 2000; ++i) {
      if (predicate()) return true;
      if (i % 16 == 15) std::this_thread::yield();
    }
    return false;
  }

  /// What each of the threads does.
  void serve() {
    std::size_t seen = 0;
    for (;;) {
      spin_until([&] { return shared_.load() != seen || is_stopping_.load(); });
      std::unique_lock<std::mutex> lock(mutex_);
      Run* run = nullptr;
      wake_.wait(lock, [&] { return is_stopping_.load() || (run = open_run()) != nullptr; });
      if (is_stopping_.load()) return;
      seen = shared_.load();
      ++run->helpers;
      lock.unlock();
      run->work();
      lock.lock();
      // The caller may be gone as soon as it sees that none is left.
      if (--run->helpers == 0) left_.notify_all();
    }
  }

  /// One with tasks that no thread has taken yet, or null. To be called with the mutex.
  Run* open_run() const {
    Run* run = runs_;
    while (run != nullptr && !run->has_tasks()) run = run->next_run;
    return run;
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, left_;
  Run* runs_ = nullptr;                 // that are under way; guarded by mutex_
  std::atomic<std::size_t> shared_{0};  // calls so far
  std::atomic<bool> is_stopping_{false};
};

}  // namespace squat

#include <squat/detail/macros_end.hpp>
