// The memory that one call of attend computes in.
#pragma once

#include <squat/detail/attention/fused_attention.hpp>
#include <squat/detail/attention/online_softmax.hpp>
#include <squat/detail/attention/scratch_set.hpp>

namespace squat::detail {

/// What belongs to one sequence of a call.
struct SequenceMemory {
  std::vector<Segment> segments;
  std::vector<float> queries;      // [kv_heads, rows, head_dim], times the softmax scale
  std::vector<RowSight> sights;    // [rows], a row each query head of a kv head
  std::vector<float> partials;     // [tasks] of PartialAttention
  std::vector<float> merged;       // [value_dim]
  std::vector<float> log_sum_exp;  // [rows, query_heads], where the caller takes none

  /// Writes what each row sees to sights.
  template <class Scalar>
  void look(const QueryRows<Scalar>& rows) {
    const Index heads = rows.shape.heads_per_kv();
    sights.clear();
    sights.reserve(static_cast<std::size_t>(rows.count() * heads));
    for (Index row = 0; row < rows.count(); ++row)
      for (Index head = 0; head < heads; ++head)
        sights.push_back({row, head, rows.position(row), rows.visible(row), rows.sinks(row)});
  }

  /// Makes room for so many numbers of partial attention, and to merge them.
  void reserve(Index numbers, Index value_dim) {
    const auto room = [](std::vector<float>& all, Index count) {
      if (static_cast<Index>(all.size()) < count) all.resize(static_cast<std::size_t>(count));
    };
    room(partials, numbers);
    room(merged, value_dim);
  }

  Index bytes() const {
    return Index{sizeof(*this)} + static_cast<Index>(segments.capacity() * sizeof(Segment) +
                                                     sights.capacity() * sizeof(RowSight) +
                                                     (queries.capacity() + partials.capacity() +
                                                      merged.capacity() + log_sum_exp.capacity()) *
                                                         sizeof(float));
  }
};

/// What tasks borrow, whichever sequence they are about.
template <class Scalar>
struct TaskMemory {
  using Real = ComputeType<Scalar>;

  /// Of a tile of rows.
  struct Tile {
    OnlineSoftmax<Real> softmax;
    DequantizedTokens<Real> tokens;
    std::vector<float> partial;  // of PartialAttention
  };

  ScratchSet<FusedAttention<Scalar>> fused;
  ScratchSet<Tile> tiles;

  Index bytes() const {
    Index sum = Index{sizeof(*this)} + fused.bytes() + tiles.bytes();
    tiles.for_each([&](const Tile& tile) {
      sum += tile.softmax.bytes() + static_cast<Index>(tile.partial.capacity() * sizeof(float)) +
             (tile.tokens.keys.size() + tile.tokens.values.size()) * Index{sizeof(Real)};
    });
    return sum;
  }
};

}  // namespace squat::detail
