// Tasks on an Eigen::ThreadPool. Not part of squat.hpp: it needs Eigen's unsupported modules.
#pragma once

#include <squat/detail/macros_begin.hpp>

#include <algorithm>
#include <atomic>
#include <squat/executor.hpp>
#include <unsupported/Eigen/CXX11/ThreadPool>

namespace squat {

/// Spreads tasks over the pool's threads and the calling one.
class EigenExecutor : public Executor {
 public:
  /// `pool` outlives this object.
  explicit EigenExecutor(Eigen::ThreadPoolInterface& pool) : pool_(pool) {}

  void run(Index tasks, const std::function<void(Index)>& task) override {
    std::atomic<Index> next{0};
    const auto work = [&] {
      for (Index i = next++; i < tasks; i = next++) task(i);
    };
    const Index helpers = std::min<Index>(pool_.NumThreads(), tasks - 1);
    Eigen::Barrier done(static_cast<unsigned>(std::max<Index>(helpers, 0)));
    for (Index i = 0; i < helpers; ++i)
      pool_.Schedule([&] {
        work();
        done.Notify();
      });
    work();
    done.Wait();
  }

  Index concurrency() const override { return Index{pool_.NumThreads()} + 1; }

 private:
  Eigen::ThreadPoolInterface& pool_;
};

}  // namespace squat

#include <squat/detail/macros_end.hpp>
