// Softmax attention whose keys and values come a block at a time.
#pragma once

#include <cmath>
#include <limits>
#include <squat/decoded_tokens.hpp>
#include <squat/simd/encode.hpp>

namespace squat {

/// Attention of a tile of query rows over the tokens of one kv head (online softmax: Milakov &
/// Gimelshein 2018).
template <class Real>
class OnlineSoftmax {
 public:
  /// Starts a tile of `rows` queries; fill queries(), already times the softmax scale.
  void start(Index rows, Index head_dim) {
    rows_ = rows;
    const Index padded = round_up(rows, 8);  // the kernels take rows by the eight
    queries_.resize(padded, head_dim);
    queries_.bottomRows(padded - rows).setZero();
    seen_.resize(static_cast<std::size_t>(rows));
    sum_values_.setZero(padded, head_dim);
    highest_.setConstant(rows, minus_infinity);
    sum_.setZero(rows);
  }

  Matrix<Real>& queries() { return queries_; }  ///< [at least rows, head_dim]
  /// What row i sees of tokens that come next [rows].
  std::vector<TokenRange>& seen() { return seen_; }

  void absorb(const DecodedTokens<Real>& tokens) {
    score(tokens);
    for (Index row = 0; row < rows_; ++row) {
      Real* score = scores_.row(row).data();
      hide(tokens, seen_[static_cast<std::size_t>(row)], score);
      Real highest = highest_[row];
      const Real sum = exponentiate(score, scores_.cols(), highest);
      if (highest != highest_[row]) {
        const Real fading = std::exp(highest_[row] - highest);
        sum_[row] *= fading;
        sum_values_.row(row) *= fading;
        highest_[row] = highest;
      }
      sum_[row] += sum;
    }
    if constexpr (single)
      simd::encode_kernels().add_products(
          scores_.data(), scores_.cols(), tokens.values.data(), tokens.values.cols(),
          sum_values_.data(), sum_values_.cols(), scores_.rows(), tokens.count, sum_values_.cols());
    else
      sum_values_.noalias() += scores_ * tokens.values.topRows(tokens.count);
  }

  /// Output of `row` into out[head_dim]; zero for a row that saw no token.
  template <class Scalar>
  void finish(Index row, Scalar* out) const {
    const Real factor = sum_[row] > 0 ? 1 / sum_[row] : Real(0);
    for (Index c = 0; c < sum_values_.cols(); ++c)
      out[c] = static_cast<Scalar>(sum_values_(row, c) * factor);
  }

  /// log(sum(exp(score))) of `row`; minus infinity if it saw no token.
  Real log_sum_exp(Index row) const { return highest_[row] + std::log(sum_[row]); }

 private:
  static constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
  // Eigen multiplies as the program was compiled; these kernels as the machine can.
  static constexpr bool single = std::is_same_v<Real, float>;

  /// scores_ [at least rows, count] of all tokens, hidden ones included; in single precision
  /// columns are padded to a multiple of eight.
  void score(const DecodedTokens<Real>& tokens) {
    if constexpr (single) {
      const Index padded = round_up(tokens.count, 8);
      keys_transposed_.resize(queries_.cols(), padded);
      keys_transposed_.leftCols(tokens.count) = tokens.keys.topRows(tokens.count).transpose();
      keys_transposed_.rightCols(padded - tokens.count).setZero();
      scores_.setZero(queries_.rows(), padded);
      simd::encode_kernels().add_products(queries_.data(), queries_.cols(), keys_transposed_.data(),
                                          padded, scores_.data(), padded, queries_.rows(),
                                          queries_.cols(), padded);
    } else {
      scores_.noalias() = queries_ * tokens.keys.topRows(tokens.count).transpose();
    }
  }

  /// Minus infinity for tokens that are not `seen`, for padding, and for columns that are no
  /// tokens.
  void hide(const DecodedTokens<Real>& tokens, const TokenRange& seen, Real* score) const {
    const Index begin = std::clamp(seen.begin - tokens.first, Index{0}, tokens.count);
    const Index end = std::clamp(seen.end - tokens.first, begin, tokens.count);
    std::fill(score, score + begin, minus_infinity);
    std::fill(score + end, score + scores_.cols(), minus_infinity);
    if (!tokens.has_padding) return;
    for (Index t = begin; t < end; ++t)
      if (!tokens.valid[static_cast<std::size_t>(t)]) score[t] = minus_infinity;
  }

  static Real exponentiate(Real* score, Index count, Real& highest) {
    if constexpr (single) {
      float sum;
      simd::vector_kernels().exponentiate(score, 0, 1, count, &highest, &sum);
      return sum;
    } else {
      for (Index t = 0; t < count; ++t) highest = std::max(highest, score[t]);
      Real sum = 0;
      for (Index t = 0; t < count; ++t) {
        score[t] = score[t] == minus_infinity ? Real(0) : std::exp(score[t] - highest);
        sum += score[t];
      }
      return sum;
    }
  }

  Index rows_ = 0;
  Matrix<Real> keys_transposed_;
  Matrix<Real> queries_;
  std::vector<TokenRange> seen_;
  Matrix<Real> scores_;
  Matrix<Real> sum_values_;
  Eigen::Matrix<Real, Eigen::Dynamic, 1> highest_;
  Eigen::Matrix<Real, Eigen::Dynamic, 1> sum_;
};

}  // namespace squat
