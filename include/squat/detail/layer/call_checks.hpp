// What a caller's matrices must be.
#pragma once

#include <limits>
#include <squat/detail/finite.hpp>
#include <squat/detail/records/affine.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// The options that a call honours beside the sequence. It fails on others that are set.
struct Honours {
  bool mask = false;
  bool fit = false;
  bool position = false;
  bool log_sum_exp = false;
  bool sight = false;  ///< visible, tree and received

  void check(const CallOptions& options, const char* call) const {
    require(mask || options.mask.empty(), "options.mask has ", options.mask.size(), " entries; ",
            call, " takes none");
    require(fit || options.fit == FitQueries::first_update, "options.fit is ",
            static_cast<int>(options.fit), "; ", call,
            " takes no queries that could fit: it must be ", "first_update (0)");
    require(position || options.position == -1, "options.position is ", options.position, "; ",
            call, " takes none: it must be -1");
    require(log_sum_exp || options.log_sum_exp == nullptr, "options.log_sum_exp is set; ", call,
            " computes none: it must be null");
    require(sight || options.visible.empty(), "options.visible has ", options.visible.size(),
            " entries; ", call, " takes none");
    require(sight || options.tree.empty(), "options.tree is set; ", call, " takes none");
    require(sight || options.received == nullptr, "options.received is set; ", call,
            " computes none: it must be null");
  }
};

/// Checks of what a cache is handed; each fails naming the argument, its value and what is allowed.
template <class Scalar>
struct CallChecks {
  const LayerShape& shape;
  int scale_bits;

  /// `queries` is null where there are none.
  void new_tokens(const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values,
                  const MatrixView<Scalar>* queries, const Mask& mask) const {
    require(keys.rows() >= 1, "keys have no rows; an update has at least one token");
    require(values.rows() == keys.rows(), "values have ", values.rows(), " rows; keys have ",
            keys.rows());
    require(mask.empty() || mask.size() == keys.rows(), "options.mask has ", mask.size(),
            " entries; the update has ", keys.rows(), " tokens");
    const double limit = largest_storable(scale_bits);
    matrix("keys", keys, shape.kv_heads, shape.head_dim, limit, mask);
    matrix("values", values, shape.kv_heads, shape.own_value_width(), limit, mask);
    if (queries == nullptr) return;
    require(queries->rows() == keys.rows(), "queries have ", queries->rows(), " rows; keys have ",
            keys.rows());
    this->queries(*queries, mask);
  }

  void queries(const MatrixView<Scalar>& all, const Mask& mask) const {
    require(mask.empty() || mask.size() == all.rows(), "options.mask has ", mask.size(),
            " entries; queries have ", all.rows(), " rows");
    matrix("queries", all, shape.query_heads, shape.head_dim, unlimited, mask);
  }

  /// What `rows` query rows are to see of tokens [first, size).
  void sight(Index rows, Index first, Index size, const CallOptions& options) const {
    const VisibleRanges& visible = options.visible;
    require(visible.empty() || visible.size() == rows, "options.visible has ", visible.size(),
            " entries; queries have ", rows, " rows");
    for (Index row = 0; row < visible.size(); ++row) {
      const TokenRange& range = visible[row];
      require(range.begin == range.end ||
                  (range.begin >= first && range.begin < range.end && range.end <= size),
              "options.visible row ", row, " is [", range.begin, ", ", range.end,
              "); it must be empty or in the tokens [", first, ", ", size, ") of the layer");
    }
    const TreeMask& tree = options.tree;
    require(tree.empty() || tree.rows() == rows, "options.tree has ", tree.rows(),
            " rows; queries have ", rows);
    require(tree.tokens() >= 0 && tree.tokens() <= size - first, "options.tree is about ",
            tree.tokens(), " tokens; the layer holds ", size - first);
  }

  void output(const MatrixView<Scalar>& queries, const MutableMatrixView<Scalar>& out) const {
    const Index columns = shape.query_heads * shape.value_width();
    require(out.rows() == queries.rows() && out.cols() == columns, "out is [", out.rows(), ", ",
            out.cols(), "]; it must be [", queries.rows(), ", ", columns, "]");
  }

 private:
  static constexpr double unlimited = std::numeric_limits<double>::max();

  /// Width, and every element of a valid row finite and at most `limit` in magnitude.
  void matrix(const char* name, const MatrixView<Scalar>& all, Index heads, Index width,
              double limit, const Mask& mask) const {
    require(all.cols() == heads * width, name, " have ", all.cols(),
            " columns; the shape asks for ", heads, " heads of ", width);
    for (Index row = 0; row < all.rows(); ++row) {
      if (!mask[row]) continue;
      const Scalar* const numbers = all.row(row).data();
      if (are_within(numbers, all.cols(), limit)) continue;
      for (Index column = 0; column < all.cols(); ++column) {
        require(are_within(numbers + column, 1, limit), name, " row ", row, " column ", column,
                " is ", numbers[column], "; it must be finite",
                limit == unlimited ? ""
                : scale_bits != 32
                    ? " and at most 65504 in magnitude (config.scale_bits = 32 allows more)"
                    : " and at most 1e18 in magnitude");
      }
    }
  }
};

}  // namespace squat::detail
