// What executors may do: any order, any threads, other work while they wait.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <mutex>
#include <squat/eigen_executor.hpp>
#include <squat/thread_executor.hpp>
#include <thread>
#include <vector>

#include "expect_error.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

constexpr Index conversations = 3;

/// Sequences of 2500 tokens: a call for few rows has four tasks, two ranges of tokens of two heads.
Cache filled_cache() {
  Config config = strong_feedback();
  config.shared_svd = false;
  Cache cache(shape, config, conversations);
  for (Index s = 0; s < conversations; ++s) {
    update(cache, Tokens(2500, static_cast<unsigned>(s)), sequence(s));
    cache.flush(0, sequence(s));
  }
  return cache;
}

/// For a few rows straight over the codes, for many over dequantized tokens.
Rows queries(Index rows) { return Tokens(rows, 99).queries; }

std::vector<Rows> attend_all(const Cache& cache, Index rows) {
  std::vector<Rows> outputs;
  for (Index s = 0; s < conversations; ++s)
    outputs.push_back(attend(cache, queries(rows), sequence(s)));
  return outputs;
}

/// While it waits for half of its tasks, it calls `meanwhile` on the same thread.
class NestingExecutor : public Executor {
 public:
  void run(Index tasks, const std::function<void(Index)>& task) override {
    const Index half = is_nested_ ? tasks : tasks / 2;
    for (Index i = 0; i < half; ++i) task(i);
    if (is_nested_) return;
    is_nested_ = true;
    meanwhile();
    is_nested_ = false;
    for (Index i = half; i < tasks; ++i) task(i);
  }

  std::function<void()> meanwhile;

 private:
  bool is_nested_ = false;
};

TEST(Executors, MayTakeUpAnotherCallWhileTheyWait) {
  for (const Index rows : {1, 20}) {
    Cache cache = filled_cache();
    const std::vector<Rows> expected = attend_all(cache, rows);
    NestingExecutor executor;
    cache.set_executor(executor);
    for (Index s = 0; s < conversations; ++s) {
      Rows nested;
      const Index other = (s + 1) % conversations;
      executor.meanwhile = [&] { nested = attend(cache, queries(rows), sequence(other)); };
      EXPECT_TRUE(same(attend(cache, queries(rows), sequence(s)), expected[std::size_t(s)]));
      EXPECT_TRUE(same(nested, expected[std::size_t(other)]));
    }
  }
}

/// Calls of all threads put their tasks into one queue, and whoever waits takes the oldest, whose
/// ever it is.
class StealingExecutor : public Executor {
 public:
  void run(Index tasks, const std::function<void(Index)>& task) override {
    std::atomic<Index> left{tasks};
    {
      const std::lock_guard lock(mutex_);
      for (Index i = 0; i < tasks; ++i) queue_.push_back({&task, i, &left});
    }
    while (left > 0) {
      Task next;
      {
        const std::lock_guard lock(mutex_);
        if (queue_.empty()) continue;
        next = queue_.front();
        queue_.pop_front();
      }
      (*next.task)(next.index);
      --*next.left;
    }
  }

 private:
  struct Task {
    const std::function<void(Index)>* task;
    Index index;
    std::atomic<Index>* left;
  };
  std::mutex mutex_;
  std::deque<Task> queue_;
};

TEST(Executors, MayStealTasksOfOtherCalls) {
  for (const Index rows : {1, 20}) {
    Cache cache = filled_cache();
    const std::vector<Rows> expected = attend_all(cache, rows);
    StealingExecutor executor;
    cache.set_executor(executor);
    for (int again = 0; again < 10; ++again) {
      std::vector<Rows> outputs(conversations);
      std::vector<std::thread> threads;
      for (Index s = 0; s < conversations; ++s)
        threads.emplace_back(
            [&, s] { outputs[std::size_t(s)] = attend(cache, queries(rows), sequence(s)); });
      for (std::thread& thread : threads) thread.join();
      for (std::size_t s = 0; s < outputs.size(); ++s) EXPECT_TRUE(same(outputs[s], expected[s]));
    }
  }
}

/// A thread for each task, although it says that one at a time runs.
class UnderstatingExecutor : public Executor {
 public:
  void run(Index tasks, const std::function<void(Index)>& task) override {
    std::vector<std::thread> threads;
    for (Index i = 0; i < tasks; ++i) threads.emplace_back(task, i);
    for (std::thread& thread : threads) thread.join();
  }
  Index concurrency() const override { return 1; }
};

TEST(Executors, MayRunMoreTasksThanTheySay) {
  for (const Index rows : {1, 20}) {
    Cache cache = filled_cache();
    const std::vector<Rows> expected = attend_all(cache, rows);
    UnderstatingExecutor executor;
    cache.set_executor(executor);
    EXPECT_TRUE(same(attend_all(cache, rows)[0], expected[0]));
  }
}

/// Several threads share `executor`, each with calls of its own; every task must run once.
void expect_each_task_once(Executor& executor) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 3; ++caller)
    threads.emplace_back([&, caller] {
      for (Index tasks = 0; tasks < 200; ++tasks) {
        std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
        executor.run(tasks, [&](Index i) { ++runs[static_cast<std::size_t>(i)]; });
        for (const std::atomic<int>& count : runs) wrong += count != 1;
        if (tasks % 50 == caller) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

void expect_the_results_of_one_thread(Executor& executor) {
  for (const Index rows : {1, 20}) {
    Cache cache = filled_cache();
    const std::vector<Rows> expected = attend_all(cache, rows);
    cache.set_executor(executor);
    for (int again = 0; again < 10; ++again) {
      const std::vector<Rows> outputs = attend_all(cache, rows);
      for (std::size_t s = 0; s < outputs.size(); ++s) EXPECT_TRUE(same(outputs[s], expected[s]));
    }
  }
}

TEST(Executors, OnEigensThreads) {
  Eigen::ThreadPool pool(3);
  EigenExecutor executor(pool);
  EXPECT_EQ(executor.concurrency(), 4);
  expect_each_task_once(executor);
  expect_the_results_of_one_thread(executor);
}

TEST(Executors, OnThreadsOfTheirOwn) {
  for (const Index threads : {1, 2, 4}) {
    ThreadExecutor executor(threads);
    EXPECT_EQ(executor.concurrency(), threads);
    expect_each_task_once(executor);
    expect_the_results_of_one_thread(executor);
  }
  EXPECT_ERROR(ThreadExecutor(0), "threads is 0; it must be 1 to 4096");
  EXPECT_ERROR(ThreadExecutor(5000), "threads is 5000; it must be 1 to 4096");
}

/// A task that another thread has to begin before it can end, shows that they run side by side.
TEST(Executors, OnThreadsOfTheirOwnRunTasksSideBySide) {
  ThreadExecutor executor(3);
  for (int again = 0; again < 100; ++again) {
    std::atomic<int> inside{0};
    executor.run(3, [&](Index) {
      ++inside;
      while (inside < 3) std::this_thread::yield();
    });
    EXPECT_EQ(inside, 3);
  }
}

}  // namespace
}  // namespace squat::testing
