// The queries of one call of attend.
#pragma once

#include <squat/layer_cache.hpp>

namespace squat {

/// Query rows [rows, query_heads * head_dim] of consecutive positions.
template <class Scalar>
struct QueryRows {
  const MatrixView<Scalar>& queries;
  Index first_position;  ///< row i sees tokens up to first_position + i, as far as a window reaches
  Mask mask;             ///< of rows whose tokens are not in the layer

  Index count() const { return queries.rows(); }
  Index position(Index row) const { return first_position + row; }
  bool is_padding(const LayerCache<Scalar>& layer, Index row) const {
    return position(row) < layer.size() ? !layer.is_valid(position(row)) : !mask[row];
  }
};

}  // namespace squat
