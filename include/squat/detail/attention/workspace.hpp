// The memory that one call of attend computes in.
#pragma once

#include <mutex>
#include <squat/detail/attention/fused_attention.hpp>
#include <squat/detail/attention/online_softmax.hpp>
#include <squat/detail/attention/scratch_set.hpp>

namespace squat::detail {

/// All memory of a call: taken before work is handed out, and kept for the next call.
template <class Scalar>
struct AttentionWorkspace {
  using Real = ComputeType<Scalar>;

  // Attention straight over the codes.
  std::vector<Segment> segments;
  std::vector<float> queries;    // [kv_heads, rows, head_dim], times the softmax scale
  std::vector<RowSight> sights;  // [rows], a row each query head of a kv head
  std::vector<float> partials;   // [tasks] of PartialAttention
  std::vector<float> merged;     // [value_dim]
  ScratchSet<FusedAttention<Scalar>> fused;

  // Attention a tile of rows at a time.
  struct Tile {
    OnlineSoftmax<Real> softmax;
    DequantizedTokens<Real> tokens;
    std::vector<float> partial;  // of PartialAttention
  };
  ScratchSet<Tile> tiles;

  /// Writes what each row of a call sees to sights.
  void look(const QueryRows<Scalar>& rows) {
    const Index heads = rows.shape.heads_per_kv();
    sights.clear();
    sights.reserve(static_cast<std::size_t>(rows.count() * heads));
    for (Index row = 0; row < rows.count(); ++row)
      for (Index head = 0; head < heads; ++head)
        sights.push_back({row, head, rows.position(row), rows.visible(row), rows.sinks(row)});
  }

  Index bytes() {
    Index sum = Index{sizeof(*this)} + fused.bytes() + tiles.bytes() +
                static_cast<Index>(
                    segments.capacity() * sizeof(Segment) + sights.capacity() * sizeof(RowSight) +
                    (queries.capacity() + partials.capacity() + merged.capacity()) * sizeof(float));
    tiles.for_each([&](const Tile& tile) {
      sum += tile.softmax.bytes() + static_cast<Index>(tile.partial.capacity() * sizeof(float)) +
             (tile.tokens.keys.size() + tile.tokens.values.size()) * Index{sizeof(Real)};
    });
    return sum;
  }
};

/// Workspaces of a cache, of which every call that is under way has one.
template <class Scalar>
class WorkspacePool {
 public:
  using Workspace = AttentionWorkspace<Scalar>;

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
    const std::lock_guard lock(mutex_);
    Index sum = 0;
    for (Workspace* workspace : free_) sum += workspace->bytes();
    return sum;
  }

 private:
  Workspace* take() {
    const std::lock_guard lock(mutex_);
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
    const std::lock_guard lock(mutex_);
    free_.push_back(workspace);
  }

  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> all_;
  std::vector<Workspace*> free_;
};

}  // namespace squat::detail
