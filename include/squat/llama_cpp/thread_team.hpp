// Work on the threads that ggml runs an operator with.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <squat/executor.hpp>
#include <thread>

namespace squat::llama_cpp {

/// ggml's threads enter an operator together, and all leave it before any enters the next: behind
/// each operator ggml has a barrier, which this counts on. In between
/// they share jobs (here: sequences); a thread that finds no more of them helps with the tasks into
/// which others cut theirs. A pool beside ggml's threads, which wait by spinning, would be slower.
class ThreadTeam : public Executor {
 public:
  /// To be called before an operator by one thread, while no other is inside.
  void resize(int threads) {
    if (threads <= threads_) return;
    offers_.reset(new Offer[static_cast<std::size_t>(threads)]);
    threads_ = threads;
  }

  /// Called by each of `threads` threads with its number. Thread 0 calls prepare(), which returns
  /// the number of jobs; then every job is done once by some thread; then thread 0 calls finish(),
  /// when all jobs are done and no other thread is inside. Nothing that is called may throw.
  template <class Prepare, class Job, class Finish>
  void run_jobs(int thread, int threads, const Prepare& prepare, const Job& job,
                const Finish& finish) {
    if (thread == 0) {
      resize(threads);
      jobs_ = prepare();
      next_job_.store(0);
      jobs_done_.store(0);
      is_prepared_.store(true);
    } else {
      wait([&] { return is_prepared_.load(); });
    }
    for (Index i = next_job_++; i < jobs_; i = next_job_++) {
      job(i);
      ++jobs_done_;
    }
    wait([&] {
      help();
      return jobs_done_.load() == jobs_;
    });
    if (thread != 0) {
      ++left_;
      return;
    }
    wait([&] { return left_.load() == threads - 1; });
    left_.store(0);
    is_prepared_.store(false);
    finish();
  }

  /// From within a job: idle threads of the team take part.
  void run(Index tasks, const std::function<void(Index)>& task) override {
    Offer* offer = tasks > 1 && threads_ > 1 ? claim() : nullptr;
    if (offer == nullptr) {
      for (Index i = 0; i < tasks; ++i) task(i);
      return;
    }
    offer->task = &task;
    offer->tasks = tasks;
    offer->next.store(0);
    offer->is_open.store(true);
    offer->work();
    offer->is_open.store(false);
    wait([&] { return offer->helpers.load() == 0; });
    offer->is_claimed.store(0);
  }

  Index concurrency() const override { return std::max(threads_, 1); }

 private:
  struct alignas(64) Offer {
    const std::function<void(Index)>* task = nullptr;
    Index tasks = 0;
    std::atomic<Index> next{0};
    std::atomic<int> helpers{0};
    std::atomic<bool> is_open{false};
    std::atomic<int> is_claimed{0};  // RISC-V's g++ asks a library for exchanges of bytes

    void work() {
      for (Index i = next++; i < tasks; i = next++) (*task)(i);
    }
  };

  /// Spins, since what is waited for takes microseconds, but leaves the processor where other work
  /// wants it.
  template <class Done>
  static void wait(const Done& done) {
    for (int spins = 0; !done(); ++spins)
      if (spins > 1000) std::this_thread::yield();
  }

  Offer* claim() {
    for (int i = 0; i < threads_; ++i)
      if (offers_[i].is_claimed.exchange(1) == 0) return &offers_[i];
    return nullptr;
  }

  /// Takes part in what is on offer.
  void help() {
    for (int i = 0; i < threads_; ++i) {
      Offer& offer = offers_[i];
      if (!offer.is_open.load()) continue;
      // Whoever offers closes, then waits for helpers: a helper must look again once it counts.
      ++offer.helpers;
      if (offer.is_open.load()) offer.work();
      --offer.helpers;
    }
  }

  int threads_ = 0;
  std::unique_ptr<Offer[]> offers_;
  Index jobs_ = 0;
  std::atomic<Index> next_job_{0};
  std::atomic<Index> jobs_done_{0};
  std::atomic<int> left_{0};
  std::atomic<bool> is_prepared_{false};
};

}  // namespace squat::llama_cpp
