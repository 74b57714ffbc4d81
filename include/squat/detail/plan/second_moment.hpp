// All that a fit needs of the queries of a kv head.
#pragma once

#include <cmath>
#include <squat/config.hpp>
#include <squat/detail/finite.hpp>
#include <squat/detail/math/reproducible.hpp>
#include <squat/detail/simd/dispatch.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// Running sum of q^T q over the queries of one kv head: all that a fit needs of them.
class SecondMoment {
 public:
  explicit SecondMoment(Index head_dim) : sum_(Matrix<double>::Zero(head_dim, head_dim)) {}

  /// From its parts. Fails on a sum that is not square or finite, or has a negative diagonal.
  SecondMoment(Matrix<double> sum, Index count) : sum_(std::move(sum)), count_(count) {
    require(sum_.rows() == sum_.cols(), "sum is [", sum_.rows(), ", ", sum_.cols(),
            "]; it must be square");
    require(all_finite(sum_) && (sum_.diagonal().array() >= 0).all(),
            "sum holds a number that is not finite or a negative square");
  }

  /// Adds `queries` [rows, heads * head_dim], in which all heads of a row count; rows that `mask`
  /// leaves out are skipped. Fails, adding nothing, on another width, a mask of another length, or
  /// a value that is not finite or beyond 2^240, in rows that count.
  template <class Scalar>
  void add(MatrixView<Scalar> queries, const Mask& mask = {}, Index heads = 1) {
    require(queries.cols() == heads * head_dim(), "queries have ", queries.cols(), " columns; ",
            heads, heads == 1 ? " head" : " heads", " of head_dim ", head_dim(), " were expected");
    require(mask.empty() || mask.size() == queries.rows(), "mask has ", mask.size(),
            " entries; queries have ", queries.rows(), " rows");
    for (Index row = 0; row < queries.rows(); ++row)
      require(!mask[row] || are_within(queries.row(row).data(), queries.cols(), 0x1p240),
              "queries hold a value that is not finite or beyond 2^240, in row ", row);
    // Chunks bound the working memory and keep sums of single-precision products short.
    constexpr Index chunk = 256;
    using Real = ComputeType<Scalar>;
    const Index most = std::min(chunk, queries.rows());
    // Kernels take channels eight at a time.
    Matrix<Real> rows = Matrix<Real>::Zero(most, round_up(head_dim(), 8));
    for (Index head = 0; head < heads; ++head)
      for (Index first = 0; first < queries.rows(); first += chunk) {
        Index used = 0;
        for (Index row = first; row < std::min(first + chunk, queries.rows()); ++row)
          if (mask[row])
            rows.row(used++).head(head_dim()) =
                queries.row(row).segment(head * head_dim(), head_dim()).template cast<Real>();
        if (used == 0) continue;
        // In a unit of their own squares stay within single precision.
        const Real top = rows.topRows(used).cwiseAbs().maxCoeff();
        const int exponent = top > 0 ? std::max(std::ilogb(top), -120) : 0;
        rows.topRows(used) *= std::ldexp(Real(1), -exponent);
        add_squares(rows, used, std::ldexp(1.0, 2 * exponent));
        count_ += used;
      }
    for (Index i = 0; i < head_dim(); ++i)
      for (Index j = 0; j < i; ++j) sum_(i, j) = sum_(j, i);
  }

  /// Adds the queries of `other`. Fails, adding nothing, on another width, or a sum that is not
  /// finite.
  void add(const SecondMoment& other) {
    require(other.head_dim() == head_dim(), "the other moment is of head_dim ", other.head_dim(),
            "; this one of ", head_dim());
    Matrix<double> sum = sum_ + other.sum_;
    require(all_finite(sum), "the sum of the moments is not finite");
    sum_ = std::move(sum);
    count_ += other.count_;
  }

  /// Of the same queries with zeros behind them, `head_dim` channels in all.
  SecondMoment padded(Index head_dim) const {
    SecondMoment moment(head_dim);
    moment.sum_.topLeftCorner(sum_.rows(), sum_.cols()) = sum_;
    moment.count_ = count_;
    return moment;
  }

  Index head_dim() const { return sum_.rows(); }
  Index count() const { return count_; }              ///< queries added
  const Matrix<double>& sum() const { return sum_; }  ///< [head_dim, head_dim]
  Index bytes() const { return sum_.size() * Index{sizeof(double)}; }

 private:
  /// sum_ += unit x^T x, x the first `count` of `rows`, on the diagonal and above.
  template <class Real>
  void add_squares(const Matrix<Real>& rows, Index count, double unit) {
    const Index d = head_dim(), width = rows.cols();
    if (count == 1) {  // a token that comes alone
      const Real* const x = rows.data();
      for (Index i = 0; i < d; ++i) {
        double* const out = sum_.row(i).data();
        const auto add = [&](Index j) {
          out[j] += static_cast<double>(rounded(x[i] * x[j])) * unit;
        };
        Index j = i;
        for (; j % 8 != 0 && j < d; ++j) add(j);
        for (; j + 8 <= d; j += 8)  // a loop of known length becomes vectors
          for (Index k = j; k < j + 8; ++k) add(k);
        for (; j < d; ++j) add(j);
      }
      return;
    }
    Matrix<Real> products = Matrix<Real>::Zero(width, width);
    if constexpr (std::is_same_v<Real, float>) {
      // Of a symmetric matrix blocks on the diagonal and to their right are enough.
      constexpr Index block = 32;
      const Matrix<float> columns = rows.topRows(count).transpose();
      for (Index i = 0; i < width; i += block)
        simd::matrix_kernels().add_products(columns.data() + i * count, count, rows.data() + i,
                                            width, products.data() + i * width + i, width,
                                            std::min(block, width - i), count, width - i);
    } else {
      for (Index row = 0; row < count; ++row)
        for (Index i = 0; i < d; ++i)
          add_multiple(rows(row, i), rows.row(row).data() + i, d - i, products.row(i).data() + i);
    }
    for (Index i = 0; i < d; ++i)
      for (Index j = i; j < d; ++j) sum_(i, j) += static_cast<double>(products(i, j)) * unit;
  }

  Matrix<double> sum_;
  Index count_ = 0;
};

}  // namespace squat::detail
