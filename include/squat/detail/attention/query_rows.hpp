// The queries of one call of attend.
#pragma once

#include <squat/detail/store/layer_view.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// Query rows [rows, query_heads * head_dim] of consecutive positions, and what they see.
template <class Scalar>
struct QueryRows {
  const MatrixView<Scalar>& queries;
  const LayerView<Scalar>& layer;
  Index first_position;
  const CallOptions& options;
  const LayerShape& shape;

  Index count() const { return queries.rows(); }
  Index position(Index row) const { return first_position + row; }

  /// What `row` sees where it stands, up to its own position if nothing else is said.
  TokenRange visible(Index row) const {
    if (!options.visible.empty()) return options.visible[row];
    const Index end = position(row) + 1;
    const Index begin = shape.window > 0  ? end - shape.window
                        : shape.chunk > 0 ? position(row) / shape.chunk * shape.chunk
                                          : 0;
    return {std::max(begin, Index{0}), end};
  }
  /// From the first to the last token that rows [begin, end) see.
  TokenRange visible_to_any(Index begin, Index end) const {
    TokenRange all{};
    for (Index row = begin; row < end; ++row) {
      const TokenRange one = visible(row);
      if (one.empty()) continue;
      all = all.empty() ? one
                        : TokenRange{std::min(all.begin, one.begin), std::max(all.end, one.end)};
    }
    return all;
  }

  /// How many of the layer's full-precision tokens `row` sees as attention sinks, beside those in
  /// its visible range.
  Index sinks(Index row) const {
    if (shape.sink_tokens == 0 || !options.visible.empty()) return 0;
    return std::min(layer.full_precision.before(visible(row).begin), layer.full_precision.sinks);
  }

  /// Of a token that the layer does not hold, options.mask says it.
  bool is_padding(Index row) const {
    const bool is_held = position(row) >= layer.first && position(row) < layer.size();
    return is_held ? !layer.is_valid(position(row)) : !options.mask[row];
  }

  /// Whether LayerShape::sink_logits join the softmax of `row`.
  bool has_sink_logit(Index row) const {
    return !shape.sink_logits.empty() && position(row) < layer.size();
  }

  /// The first token that options.tree is about.
  Index tree_begin() const { return layer.size() - options.tree.tokens(); }
  /// Whether options.tree hides `token` from `row`.
  bool is_hidden(Index row, Index token) const {
    return token >= tree_begin() && !options.tree(row, token - tree_begin());
  }
};

}  // namespace squat::detail
