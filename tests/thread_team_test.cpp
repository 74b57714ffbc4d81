// Threads that enter an operator together, as ggml's do.
#include <gtest/gtest.h>

#include <squat/llama_cpp/thread_team.hpp>
#include <vector>

namespace squat::llama_cpp {
namespace {

/// Where threads wait for each other behind an operator, as ggml's do.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int round = arrived_++ / threads_ + 1;
    while (arrived_ < round * threads_) std::this_thread::yield();
  }

 private:
  int threads_;
  std::atomic<int> arrived_{0};
};

/// Runs `operators` operators of `jobs` jobs on `threads` threads, each job cut into `tasks` tasks;
/// returns how often each task of each job ran.
std::vector<int> run(int threads, Index jobs, Index tasks, int operators) {
  ThreadTeam team;
  Barrier barrier(threads);
  std::vector<std::atomic<int>> counts(static_cast<std::size_t>(jobs * tasks));
  std::atomic<int> inside{0}, prepared{0}, finished{0};
  const auto thread = [&](int number) {
    for (int i = 0; i < operators; ++i) {
      team.run_jobs(
          number, threads,
          [&] {
            ++prepared;
            return jobs;
          },
          [&](Index job) {
            ++inside;
            EXPECT_EQ(prepared, i + 1);
            const std::function<void(Index)> task = [&](Index t) {
              ++counts[static_cast<std::size_t>(job * tasks + t)];
            };
            team.run(tasks, task);
            // All tasks of the job are done when run() returns, whoever did them.
            for (Index t = 0; t < tasks; ++t)
              EXPECT_EQ(counts[static_cast<std::size_t>(job * tasks + t)], i + 1);
            --inside;
          },
          [&] {
            EXPECT_EQ(inside, 0);
            EXPECT_EQ(++finished, i + 1);
          });
      barrier.wait();
    }
  };
  std::vector<std::thread> others;
  for (int number = 1; number < threads; ++number) others.emplace_back(thread, number);
  thread(0);
  for (std::thread& other : others) other.join();
  EXPECT_EQ(finished, operators);
  return {counts.begin(), counts.end()};
}

TEST(ThreadTeam, DoesEachTaskOfEachJobOnce) {
  for (const int threads : {1, 2, 5})
    for (const Index jobs : {0, 1, 2, 9})
      for (const Index tasks : {1, 7}) {
        SCOPED_TRACE(::testing::Message()
                     << threads << " threads, " << jobs << " jobs of " << tasks << " tasks");
        const std::vector<int> counts = run(threads, jobs, tasks, 50);
        for (const int count : counts) ASSERT_EQ(count, 50);
      }
}

TEST(ThreadTeam, TakesAnotherNumberOfThreadsWithEachOperator) {
  ThreadTeam team;
  for (const int threads : {3, 1, 4, 2}) {
    std::atomic<int> done{0};
    const auto thread = [&](int number) {
      team.run_jobs(
          number, threads, [] { return Index{1}; },
          [&](Index) {
            const std::function<void(Index)> task = [&](Index) { ++done; };
            team.run(20, task);
          },
          [] {});
    };
    std::vector<std::thread> others;
    for (int number = 1; number < threads; ++number) others.emplace_back(thread, number);
    thread(0);
    for (std::thread& other : others) other.join();
    EXPECT_EQ(done, 20);
  }
}

}  // namespace
}  // namespace squat::llama_cpp
