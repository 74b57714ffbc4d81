// Scores of packed keys, whatever their scales belong to.
#pragma once

#include <squat/detail/attention/channel_key_scores.hpp>
#include <squat/detail/attention/token_key_scores.hpp>

namespace squat::detail {

/// Products of query rows with the packed keys of blocks, straight over the codes.
class KeyScores {
 public:
  /// Query rows that prepare() can take.
  static constexpr Index max_rows = ChannelKeyScores::max_rows;

  /// For blocks of `layout`: `queries` [rows, head_dim], times the softmax scale.
  void prepare(const KeyRecordLayout& layout, const float* queries, Index rows) {
    if (layout.is_per_token())
      by_token_.prepare(layout, queries, rows);
    else
      by_channel_.prepare(layout, queries, rows);
  }

  /// scores[i * max_block + t] of every row and token of a block, padding and missing ones
  /// included.
  void score(const KeyRecordLayout& layout, const std::byte* record, float* scores) {
    if (layout.is_per_token())
      by_token_.score(layout, record, scores);
    else
      by_channel_.score(layout, record, scores);
  }

 private:
  ChannelKeyScores by_channel_;
  TokenKeyScores by_token_;
};

}  // namespace squat::detail
