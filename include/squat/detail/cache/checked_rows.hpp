// The query rows of a call, and whether the layer holds what they see.
#pragma once

#include <squat/detail/attention/query_rows.hpp>
#include <squat/detail/store/layer_store.hpp>

namespace squat::detail {

/// The rows of `queries` in `layer`, of `shape`, which reads `source`; all outlive them. Fails
/// where the layer does not hold what they see.
template <class Scalar>
QueryRows<Scalar> checked_rows(const LayerShape& shape, Index layer,
                               const LayerStore<Scalar>& source, const LayerView<Scalar>& view,
                               const MatrixView<Scalar>& queries, const CallOptions& options) {
  const Index size = source.size();
  require(options.position >= -1 && options.position <= max_position, "options.position is ",
          options.position, "; it must be 0 to ", max_position, ", or -1 for the newest tokens'");
  require(queries.rows() >= 1, "queries have no rows");
  if (options.position == -1) {
    require(size > 0, "attend: layer ", layer, " of sequence ", options.sequence, " is empty");
    require(queries.rows() <= size, "queries have ", queries.rows(), " rows; layer ", layer,
            " of sequence ", options.sequence, " has ", size, " tokens");
  }
  const Index first = options.position == -1 ? size - queries.rows() : options.position;
  const QueryRows<Scalar> rows{queries, view, first, options, shape};
  require(!options.visible.empty() || rows.visible(0).begin >= source.first(),
          "queries begin at position ", first, "; layer ", layer, " of sequence ", options.sequence,
          " has dropped what they see: they can begin at ", source.least_size() - 1, " or later");
  return rows;
}

}  // namespace squat::detail
