// Memory that calls compute in, kept from one to the next.
#pragma once

#include <memory>
#include <mutex>
#include <squat/matrix.hpp>
#include <vector>

namespace squat::detail {

/// Workspaces of a cache, of which every call that is under way has one.
template <class Workspace>
class WorkspacePool {
 public:
  /// A workspace for one call.
  class Lease {
   public:
    explicit Lease(WorkspacePool& pool) : pool_(pool), workspace_(pool.take()) {}
    ~Lease() { pool_.give_back(workspace_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Workspace& operator*() const { return *workspace_; }

   private:
    WorkspacePool& pool_;
    Workspace* workspace_;
  };

  /// Of those that no call has.
  Index bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    Index sum = 0;
    for (Workspace* workspace : free_) sum += workspace->bytes();
    return sum;
  }

 private:
  Workspace* take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) {
      free_.reserve(all_.size() + 1);  // so that giving back cannot fail
      all_.push_back(std::make_unique<Workspace>());
      return all_.back().get();
    }
    Workspace* const workspace = free_.back();
    free_.pop_back();
    return workspace;
  }
  void give_back(Workspace* workspace) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(workspace);
  }

  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> all_;
  std::vector<Workspace*> free_;
};

}  // namespace squat::detail
