// Which rows of a graph belong to which sequence.
#pragma once

#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <cstdlib>
#include <squat/error.hpp>
#include <squat/llama_cpp/token_places.hpp>
#include <squat/model_shape.hpp>
#include <vector>

namespace squat::llama_cpp {

/// A token of a batch. The rows of a graph are those of the next tokens.
struct BatchToken {
  llama_seq_id sequence = 0;  ///< the first that it belongs to: what that one has seen, it sees
  Place place = {};
  std::vector<llama_seq_id> more = {};  ///< others that it belongs to

  bool is_of(llama_seq_id any) const {
    return any == sequence || std::find(more.begin(), more.end(), any) != more.end();
  }
  /// Calls use(sequence) for all that it belongs to.
  template <class Use>
  void for_sequences(const Use& use) const {
    use(sequence);
    for (const llama_seq_id other : more) use(other);
  }
};

/// The cell of llama.cpp's memory that holds a token.
struct CellToken {
  Index cell;
  BatchToken token;
};

/// Rows of one sequence in the rows [begin, end) of a batch that one graph computes.
struct SequenceRows {
  llama_seq_id sequence;
  std::vector<Index> rows;  ///< in the graph, ascending
  Index foreign = 0;        ///< rows of tokens whose first sequence is another

  bool are_contiguous() const {
    return rows.back() - rows.front() + 1 == static_cast<Index>(rows.size());
  }
};

/// The sequences of the tokens [begin, end) of a batch, in order of appearance.
inline std::vector<SequenceRows> rows_by_sequence(const std::vector<BatchToken>& batch, Index begin,
                                                  Index end) {
  std::vector<SequenceRows> sequences;
  for (Index i = begin; i < end; ++i) {
    const BatchToken& token = batch[static_cast<std::size_t>(i)];
    token.for_sequences([&](llama_seq_id sequence) {
      std::size_t s = 0;
      while (s < sequences.size() && sequences[s].sequence != sequence) ++s;
      if (s == sequences.size()) sequences.push_back({sequence, {}});
      sequences[s].rows.push_back(i - begin);
      sequences[s].foreign += sequence != token.sequence;
    });
  }
  return sequences;
}

/// How much of a graph its tokens see of their own sequence.
enum class Sight {
  earlier,  ///< up to themselves: causal attention
  graph,    ///< all: tokens of an image
};

/// Fails unless `mask` [cells, rows] shows each of the tokens [begin, end) of a batch, which are
/// those of a graph, exactly what a cache of `shape` shows it: earlier tokens of its sequence,
/// itself included, as far back as a window or chunk says, with minus their distance where there
/// are ALiBi slopes. So nothing is computed that the model means differently. Returns whether each
/// sees the later ones of the graph, too. `cells`: the tokens that llama.cpp's memory holds from
/// before, `kept` of them, then those of the batch.
inline Sight check_mask(const ggml_tensor& mask, const std::vector<CellToken>& cells, Index kept,
                        Index begin, Index end, const LayerShape& shape) {
  constexpr std::uint16_t hidden = 0xfc00;  // minus infinity; 0 is shown
  require(mask.type == GGML_TYPE_F16 && mask.ne[1] >= end - begin, "the attention mask is ",
          ggml_type_name(mask.type), " [", mask.ne[0], ", ", mask.ne[1],
          "]; it must be f16 and have at least ", end - begin, " rows");
  const auto row_of = [&](Index token) {
    return reinterpret_cast<const std::uint16_t*>(
        static_cast<const char*>(mask.data) + static_cast<std::size_t>(token - begin) * mask.nb[1]);
  };
  const auto at = [&](Index i) -> const CellToken& { return cells[static_cast<std::size_t>(i)]; };
  for (Index j = 0; j < kept + end; ++j)
    require(at(j).cell < mask.ne[0], "the attention mask is of ", mask.ne[0],
            " cells; it must be of more than ", at(j).cell);

  // The first token that has a later one tells.
  const auto sight = [&] {
    for (Index i = begin; i < end; ++i)
      for (Index j = i + 1; j < end; ++j)
        if (at(kept + j).token.is_of(at(kept + i).token.sequence))
          return row_of(i)[at(kept + j).cell] == hidden ? Sight::earlier : Sight::graph;
    return Sight::earlier;
  }();

  std::vector<std::uint16_t> expected(static_cast<std::size_t>(mask.ne[0]));
  for (Index i = begin; i < end; ++i) {
    const BatchToken& own = at(kept + i).token;
    std::fill(expected.begin(), expected.end(), hidden);
    for (Index j = 0; j < kept + (sight == Sight::graph ? end : i + 1); ++j) {
      const auto& [cell, other] = at(j);
      const Index position = own.place.position, distance = position - other.place.position;
      if (other.is_of(own.sequence) && (shape.window == 0 || distance < shape.window) &&
          (shape.chunk == 0 || position / shape.chunk <= other.place.position / shape.chunk))
        expected[static_cast<std::size_t>(cell)] =
            shape.alibi_slopes.empty() || distance == 0
                ? std::uint16_t{0}
                : ggml_fp32_to_fp16(static_cast<float>(-std::abs(distance)));
    }
    const auto found = std::mismatch(expected.begin(), expected.end(), row_of(i));
    require(found.first == expected.end(), "the attention mask has ",
            ggml_fp16_to_fp32(*found.second), " for cell ", found.first - expected.begin(),
            " and token ", i, " of the batch; a cache has ", ggml_fp16_to_fp32(*found.first),
            " (tokens must see earlier ones, or all of a batch, without biases but for ALiBi)");
  }
  return sight;
}

}  // namespace squat::llama_cpp
