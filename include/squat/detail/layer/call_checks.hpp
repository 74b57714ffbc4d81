// What a caller's matrices must be.
#pragma once

#include <limits>
#include <squat/detail/records/affine.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// The options that a call honours beside the sequence. It fails on others that are set.
struct Honours {
  bool mask = false;
  bool fit = false;
  bool position = false;
  bool log_sum_exp = false;

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
  }
};

/// Checks of what a cache is handed; each fails naming the argument, its value and what is allowed.
template <class Scalar>
struct CallChecks {
  const ModelShape& shape;
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
    matrix("keys", keys, shape.kv_heads, limit, mask);
    matrix("values", values, shape.kv_heads, limit, mask);
    if (queries == nullptr) return;
    require(queries->rows() == keys.rows(), "queries have ", queries->rows(), " rows; keys have ",
            keys.rows());
    this->queries(*queries, mask);
  }

  void queries(const MatrixView<Scalar>& all, const Mask& mask) const {
    require(mask.empty() || mask.size() == all.rows(), "options.mask has ", mask.size(),
            " entries; queries have ", all.rows(), " rows");
    matrix("queries", all, shape.query_heads, unlimited, mask);
  }

  void output(const MatrixView<Scalar>& queries, const MutableMatrixView<Scalar>& out) const {
    require(out.rows() == queries.rows() && out.cols() == queries.cols(), "out is [", out.rows(),
            ", ", out.cols(), "]; queries are [", queries.rows(), ", ", queries.cols(), "]");
  }

 private:
  using Real = ComputeType<Scalar>;
  static constexpr double unlimited = std::numeric_limits<double>::infinity();

  /// Width, and every element of a valid row finite and at most `limit` in magnitude.
  void matrix(const char* name, const MatrixView<Scalar>& all, Index heads, double limit,
              const Mask& mask) const {
    require(all.cols() == heads * shape.head_dim, name, " have ", all.cols(),
            " columns; the shape asks for ", heads, " heads of ", shape.head_dim);
    const Real largest =
        static_cast<Real>(std::min(limit, static_cast<double>(std::numeric_limits<Real>::max())));
    for (Index row = 0; row < all.rows(); ++row) {
      if (!mask[row]) continue;
      const auto magnitudes = all.row(row).template cast<Real>().array().abs();
      if ((magnitudes <= largest).all()) continue;
      for (Index column = 0; column < all.cols(); ++column) {
        const Real value = static_cast<Real>(all(row, column));
        require(std::abs(value) <= largest, name, " row ", row, " column ", column, " is ", value,
                "; it must be finite",
                limit == unlimited ? ""
                : scale_bits != 32
                    ? " and at most 65504 in magnitude (config.scale_bits = 32 allows more)"
                    : " and at most 1e18 in magnitude");
      }
    }
  }
};

}  // namespace squat::detail
