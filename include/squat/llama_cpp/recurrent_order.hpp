// In which order llama.cpp computes the tokens of a batch where layers are recurrent.
#pragma once

#include <algorithm>
#include <squat/llama_cpp/batch_rows.hpp>

namespace squat::llama_cpp {

/// The tokens of `batch` as the graphs of a model with recurrent layers take them, graph after
/// graph of at most `most` tokens. Each graph takes the next tokens of all sequences that have some
/// left, equally many of each, one sequence behind the other; with `one_by_one`, as where every
/// token is an output, those of one sequence. These are split_equal and split_seq in llama.cpp's
/// llama-batch.cpp. No function of llama.h tells; check_mask finds a batch split in another way.
inline std::vector<BatchToken> recurrent_order(const std::vector<BatchToken>& batch, Index most,
                                               bool one_by_one) {
  const auto size = static_cast<Index>(batch.size());
  std::vector<SequenceRows> left = rows_by_sequence(batch, 0, size);
  std::vector<BatchToken> order;
  while (!left.empty()) {
    std::sort(left.begin(), left.end(), [](const SequenceRows& a, const SequenceRows& b) {
      return a.rows.front() < b.rows.front();
    });
    Index sequences = static_cast<Index>(left.size());
    sequences = std::min(sequences, one_by_one ? Index{1} : most + 1);
    Index count = std::max<Index>(most / sequences, 1);
    for (Index s = 0; s < sequences; ++s)
      count = std::min(count, static_cast<Index>(left[static_cast<std::size_t>(s)].rows.size()));
    for (Index s = 0; s < sequences; ++s) {
      std::vector<Index>& rows = left[static_cast<std::size_t>(s)].rows;
      for (Index i = 0; i < count; ++i)
        order.push_back(batch[static_cast<std::size_t>(rows[static_cast<std::size_t>(i)])]);
      rows.erase(rows.begin(), rows.begin() + count);
    }
    left.erase(std::remove_if(left.begin(), left.end(),
                              [](const SequenceRows& sequence) { return sequence.rows.empty(); }),
               left.end());
  }
  return order;
}

}  // namespace squat::llama_cpp
