// Which rows of a graph belong to which sequence.
#pragma once

#include <ggml.h>
#include <llama.h>

#include <squat/error.hpp>
#include <squat/model_shape.hpp>
#include <vector>

namespace squat::llama_cpp {

/// A token of a batch. llama.cpp's memory is empty before each batch, and takes its tokens in
/// order: token i is in cell i, and the rows of a graph are those of the next cells.
struct BatchToken {
  llama_seq_id sequence;
  Index position;
};

/// Rows of one sequence in the rows [begin, end) of a batch that one graph computes.
struct SequenceRows {
  llama_seq_id sequence;
  std::vector<Index> rows;  ///< in the graph, ascending

  bool are_contiguous() const {
    return rows.back() - rows.front() + 1 == static_cast<Index>(rows.size());
  }
};

/// The sequences of the tokens [begin, end) of a batch, in order of appearance.
inline std::vector<SequenceRows> rows_by_sequence(const std::vector<BatchToken>& batch, Index begin,
                                                  Index end) {
  std::vector<SequenceRows> sequences;
  for (Index i = begin; i < end; ++i) {
    const llama_seq_id sequence = batch[static_cast<std::size_t>(i)].sequence;
    std::size_t s = 0;
    while (s < sequences.size() && sequences[s].sequence != sequence) ++s;
    if (s == sequences.size()) sequences.push_back({sequence, {}});
    sequences[s].rows.push_back(i - begin);
  }
  return sequences;
}

/// Fails unless `mask` [cells, rows] shows each of the tokens [begin, end) of a batch exactly what
/// a cache of `shape` shows it of the batch: earlier tokens of its sequence, itself included, as
/// far as a window or chunk says, with minus their distance where there are ALiBi slopes. So
/// nothing is computed that the model means differently.
inline void check_mask(const ggml_tensor& mask, const std::vector<BatchToken>& batch, Index begin,
                       Index end, const LayerShape& shape) {
  constexpr std::uint16_t shown = 0x0000, hidden = 0xfc00;  // 0 and minus infinity
  require(mask.type == GGML_TYPE_F16 && mask.ne[0] >= end && mask.ne[1] >= end - begin,
          "the attention mask is ", ggml_type_name(mask.type), " [", mask.ne[0], ", ", mask.ne[1],
          "]; it must be f16 and have at least ", end, " cells and ", end - begin, " rows");
  for (Index i = begin; i < end; ++i) {
    const BatchToken& own = batch[static_cast<std::size_t>(i)];
    const auto* row = reinterpret_cast<const std::uint16_t*>(
        static_cast<const char*>(mask.data) + static_cast<std::size_t>(i - begin) * mask.nb[1]);
    for (Index cell = 0; cell < mask.ne[0]; ++cell) {
      bool is_shown = false;
      Index distance = 0;
      if (cell <= i) {
        const BatchToken& other = batch[static_cast<std::size_t>(cell)];
        is_shown = other.sequence == own.sequence &&
                   (shape.window == 0 || own.position - other.position < shape.window) &&
                   (shape.chunk == 0 || own.position / shape.chunk == other.position / shape.chunk);
        if (is_shown && !shape.alibi_slopes.empty()) distance = own.position - other.position;
      }
      const std::uint16_t expected = !is_shown ? hidden
                                     : distance == 0
                                         ? shown
                                         : ggml_fp32_to_fp16(static_cast<float>(-distance));
      require(row[cell] == expected, "the attention mask ", is_shown ? "hides" : "shows", " token ",
              cell, " of the batch ", is_shown ? "from" : "to", " token ", i, "; a cache ",
              is_shown ? "shows" : "hides",
              " it (masks must be causal, without biases but for ALiBi)");
    }
  }
}

}  // namespace squat::llama_cpp
