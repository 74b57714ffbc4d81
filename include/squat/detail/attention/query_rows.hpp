// The queries of one call of attend.
#pragma once

#include <squat/detail/store/layer_view.hpp>
#include <squat/detail/store/token_range.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// Query rows [rows, query_heads * head_dim] of consecutive positions, and what they see.
template <class Scalar>
struct QueryRows {
  const MatrixView<Scalar>& queries;
  Index first_position;  ///< row i sees tokens up to first_position + i
  Index window;          ///< how many of them, its own included; 0: all
  Mask mask;             ///< of rows whose tokens are not in the layer

  Index count() const { return queries.rows(); }
  Index position(Index row) const { return first_position + row; }
  /// What `row` sees, full-precision tokens before it aside.
  TokenRange visible(Index row) const {
    return {window > 0 ? std::max(position(row) - window + 1, Index{0}) : 0, position(row) + 1};
  }
  bool is_padding(const LayerView<Scalar>& layer, Index row) const {
    return position(row) < layer.size() ? !layer.is_valid(position(row)) : !mask[row];
  }
};

}  // namespace squat::detail
