// Softmax attention whose keys and values come a block at a time.
#pragma once

#include <cmath>
#include <limits>
#include <squat/decoded_tokens.hpp>

namespace squat {

/// Attention of a tile of query rows over the tokens of one kv head (online softmax: Milakov &
/// Gimelshein 2018). Row i is of the token at `positions`[i] and sees tokens up to it.
template <class Real>
class OnlineSoftmax {
 public:
  /// Starts a tile of `rows` queries; fill queries(), already times the softmax scale.
  void start(Index rows, Index head_dim) {
    queries_.resize(rows, head_dim);
    positions_.resize(static_cast<std::size_t>(rows));
    sum_values_ = Matrix<Real>::Zero(rows, head_dim);
    highest_.setConstant(rows, minus_infinity);
    sum_.setZero(rows);
  }

  Matrix<Real>& queries() { return queries_; }            ///< [rows, head_dim]
  std::vector<Index>& positions() { return positions_; }  ///< [rows], ascending

  void absorb(const DecodedTokens<Real>& tokens) {
    scores_.noalias() = queries_ * tokens.keys.topRows(tokens.count).transpose();
    for (Index row = 0; row < queries_.rows(); ++row) {
      Real* score = scores_.row(row).data();
      const Index seen = positions_[static_cast<std::size_t>(row)] + 1 - tokens.first;
      Real highest = highest_[row];
      for (Index t = 0; t < tokens.count; ++t) {
        if (t >= seen || !tokens.valid[static_cast<std::size_t>(t)]) score[t] = minus_infinity;
        highest = std::max(highest, score[t]);
      }
      if (highest == minus_infinity) {
        std::fill_n(score, tokens.count, Real(0));
        continue;
      }
      scores_.row(row) = (scores_.row(row).array() - highest).exp();
      const Real fading = std::exp(highest_[row] - highest);
      sum_[row] = sum_[row] * fading + scores_.row(row).sum();
      if (fading != 1) sum_values_.row(row) *= fading;
      highest_[row] = highest;
    }
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

  Matrix<Real> queries_;
  std::vector<Index> positions_;
  Matrix<Real> scores_;
  Matrix<Real> sum_values_;
  Eigen::Matrix<Real, Eigen::Dynamic, 1> highest_;
  Eigen::Matrix<Real, Eigen::Dynamic, 1> sum_;
};

}  // namespace squat
