// Attention over a set of tokens, put together from attention over its parts.
#pragma once

#include <cmath>
#include <limits>
#include <squat/config.hpp>
#include <vector>

namespace squat {

/// The sum over tokens that becomes one query's attention once it is divided by `sum`.
template <class Real>
struct SoftmaxSum {
  static constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();

  Real max = minus_infinity;  ///< largest score, or log-sum-exp; minus infinity: no token
  Real sum = 0;               ///< of exp(score - max)

  /// Puts what was summed under `max` under `score`, where that is larger.
  void raise(Real score, Index value_dim, Real* values) {
    if (!(score > max)) return;
    if (!detail::is_minus_infinity(max)) {  // else all is zero
      const Real rescale = std::exp(max - score);
      sum *= rescale;
      Row<Real>(values, value_dim) *= rescale;
    }
    max = score;
  }

  /// Adds `part`, whose tokens are others and whose sum of exp(score - part.max) * value is
  /// `part_values` [value_dim], to this one, whose `values` [value_dim] are zero at first.
  template <class Scalar>
  void add(const SoftmaxSum& part, const Scalar* part_values, Index value_dim, Real* values) {
    if (detail::is_minus_infinity(part.max)) return;  // it may hold anything
    raise(part.max, value_dim, values);
    const Real weight = std::exp(part.max - max);
    sum += weight * part.sum;
    Row<Real>(values, value_dim) +=
        weight * Row<const Scalar>(part_values, value_dim).template cast<Real>();
  }

  /// Adds a score that has no value: LayerShape::sink_logits.
  void add_sink(Real logit, Index value_dim, Real* values) {
    raise(logit, value_dim, values);
    sum += std::exp(logit - max);
  }

  /// Attention of the query into out [value_dim]; zero where no token was seen.
  template <class Scalar>
  void write(const Real* values, Index value_dim, Scalar* out) const {
    const Real factor = sum > 0 ? 1 / sum : Real(0);
    Row<Scalar>(out, value_dim) =
        (Row<const Real>(values, value_dim) * factor).template cast<Scalar>();
  }

  Real log_sum_exp() const { return max + std::log(sum); }

 private:
  /// Whose loops are vectors, however a program is compiled.
  template <class Number>
  using Row = Eigen::Map<std::conditional_t<
      std::is_const_v<Number>, const Eigen::Array<std::remove_const_t<Number>, Eigen::Dynamic, 1>,
      Eigen::Array<Number, Eigen::Dynamic, 1>>>;
};

/// Attention of some query rows over tokens that several caches hold, from what each of them
/// computes: output and log-sum-exp (FlashAttention-2, section 3.1.2; Ring Attention). It is exact:
/// with lse_s of part s, the output is sum_s exp(lse_s - lse) out_s, lse = log(sum_s exp(lse_s)).
/// Parts that are added in the same order give the same result bit for bit.
///
/// The inputs are rounded: out_s to Scalar, lse_s to float. That moves the output by at most
/// (2^-23 max|lse_s| + roundoff(Scalar)) max|value|, twice that once it is rounded itself.
template <class Scalar>
class MergedAttention {
 public:
  using Real = ComputeType<Scalar>;

  /// Of `rows` queries and no tokens yet.
  MergedAttention(const LayerShape& shape, Index rows)
      : query_heads_(shape.query_heads), value_dim_(shape.value_width()) {
    detail::check(shape);
    require(rows >= 1, "rows is ", rows, "; it must be at least 1");
    values_.setZero(rows, query_heads_ * value_dim_);
    sums_.resize(static_cast<std::size_t>(rows * query_heads_));
  }

  /// Takes in attention over tokens that no earlier part had: out [rows, query_heads * value_dim]
  /// and log_sum_exp [rows, query_heads], as attend() writes them. Where log_sum_exp is minus
  /// infinity (no token was seen), out may hold anything. Fails, taking in nothing, on another
  /// shape, or a log_sum_exp that is neither finite nor minus infinity.
  void add(MatrixView<Scalar> out, MatrixView<float> log_sum_exp) {
    check_shape("out", out.rows(), out.cols(), values_.cols());
    check_shape("log_sum_exp", log_sum_exp.rows(), log_sum_exp.cols(), query_heads_);
    for (Index row = 0; row < log_sum_exp.rows(); ++row)
      for (Index head = 0; head < query_heads_; ++head) {
        const float& one = log_sum_exp.row(row).data()[head];
        require(detail::is_finite(one) || detail::is_minus_infinity(one), "log_sum_exp row ", row,
                " head ", head, " is ", one, "; it must be finite or minus infinity");
      }
    for (Index row = 0; row < values_.rows(); ++row)
      for (Index head = 0; head < query_heads_; ++head)
        sum(row, head).add({log_sum_exp(row, head), 1}, out.row(row).data() + head * value_dim_,
                           value_dim_, values_.row(row).data() + head * value_dim_);
  }

  /// Attention over all that was added into out [rows, query_heads * value_dim], zero for a row
  /// that saw no token, and unless it is null into log_sum_exp [rows, query_heads].
  void write(MutableMatrixView<Scalar> out, float* log_sum_exp = nullptr) const {
    check_shape("out", out.rows(), out.cols(), values_.cols());
    for (Index row = 0; row < values_.rows(); ++row)
      for (Index head = 0; head < query_heads_; ++head) {
        const SoftmaxSum<Real>& total = sums_[index(row, head)];
        total.write(values_.row(row).data() + head * value_dim_, value_dim_,
                    out.row(row).data() + head * value_dim_);
        if (log_sum_exp != nullptr)
          log_sum_exp[index(row, head)] = static_cast<float>(total.log_sum_exp());
      }
  }

 private:
  std::size_t index(Index row, Index head) const {
    return static_cast<std::size_t>(row * query_heads_ + head);
  }
  SoftmaxSum<Real>& sum(Index row, Index head) { return sums_[index(row, head)]; }

  void check_shape(const char* name, Index rows, Index columns, Index expected_columns) const {
    require(rows == values_.rows() && columns == expected_columns, name, " is [", rows, ", ",
            columns, "]; it must be [", values_.rows(), ", ", expected_columns, "]");
  }

  Index query_heads_;
  Index value_dim_;
  Matrix<Real> values_;                 // [rows, query_heads * value_dim]
  std::vector<SoftmaxSum<Real>> sums_;  // [rows, query_heads]
};

}  // namespace squat
