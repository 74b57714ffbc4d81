// Softmax attention whose keys and values come a block at a time.
#pragma once

#include <cmath>
#include <limits>
#include <squat/detail/attention/dequantized_tokens.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail {

/// Attention of a tile of query rows over the tokens of one kv head (online softmax: Milakov &
/// Gimelshein 2018). reserve() is the only call that allocates.
template <class Real>
class OnlineSoftmax {
 public:
  using Rows = Eigen::Map<Matrix<Real>>;

  /// Makes room for tiles of `rows` queries.
  void reserve(Index rows, Index head_dim) {
    const auto room = [](std::vector<Real>& memory, Index numbers) {
      if (static_cast<Index>(memory.size()) < numbers)
        memory.resize(static_cast<std::size_t>(numbers));
    };
    const Index padded = round_up(rows, row_multiple);
    room(queries_, padded * head_dim);
    room(sum_values_, padded * head_dim);
    room(scores_, padded * DequantizedTokens<Real>::capacity);
    room(keys_transposed_, head_dim * DequantizedTokens<Real>::capacity);
    room(max_, rows);
    room(sum_, rows);
    if (static_cast<Index>(visible_.size()) < rows) visible_.resize(static_cast<std::size_t>(rows));
  }

  /// Starts a tile of `rows` queries; fill queries(), already times the softmax scale.
  void start(Index rows, Index head_dim) {
    rows_ = rows;
    padded_ = round_up(rows, row_multiple);
    head_dim_ = head_dim;
    queries().bottomRows(padded_ - rows).setZero();
    sum_values().setZero();
    std::fill_n(max_.data(), rows, minus_infinity);
    std::fill_n(sum_.data(), rows, Real(0));
  }

  Rows queries() { return {queries_.data(), padded_, head_dim_}; }  ///< [at least rows, head_dim]
  /// What each row sees of tokens that come next [rows].
  TokenRange* visible() { return visible_.data(); }

  void absorb(const DequantizedTokens<Real>& tokens) {
    const Index columns = score(tokens);
    for (Index row = 0; row < rows_; ++row) {
      Real* score = scores_.data() + row * columns;
      mask_scores(tokens, visible_[at(row)], columns, score);
      Real max = max_[at(row)];
      const Real sum = exponentiate(score, columns, max);
      if (max != max_[at(row)]) {
        const Real rescale = std::exp(max_[at(row)] - max);
        sum_[at(row)] *= rescale;
        sum_values().row(row) *= rescale;
        max_[at(row)] = max;
      }
      sum_[at(row)] += sum;
    }
    if constexpr (single)
      simd::matrix_kernels().add_products(scores_.data(), columns, tokens.values.data(),
                                          tokens.values.cols(), sum_values_.data(), head_dim_,
                                          padded_, tokens.count, head_dim_);
    else  // a lazy product allocates nothing
      sum_values() +=
          Rows(scores_.data(), padded_, columns).lazyProduct(tokens.values.topRows(tokens.count));
  }

  /// Output of `row` into out[head_dim]; zero for a row that saw no token.
  template <class Scalar>
  void finish(Index row, Scalar* out) const {
    const Real factor = sum_[at(row)] > 0 ? 1 / sum_[at(row)] : Real(0);
    const Real* const sums = sum_values_.data() + row * head_dim_;
    for (Index c = 0; c < head_dim_; ++c) out[c] = static_cast<Scalar>(sums[c] * factor);
  }

  /// log(sum(exp(score))) of `row`; minus infinity if it saw no token.
  Real log_sum_exp(Index row) const { return max_[at(row)] + std::log(sum_[at(row)]); }

  Index bytes() const {
    return static_cast<Index>((queries_.size() + sum_values_.size() + scores_.size() +
                               keys_transposed_.size() + max_.size() + sum_.size()) *
                                  sizeof(Real) +
                              visible_.size() * sizeof(TokenRange));
  }

 private:
  static constexpr Index row_multiple = 8;  // the kernels take rows by the eight
  static constexpr Real minus_infinity = -std::numeric_limits<Real>::infinity();
  // Eigen multiplies as the program was compiled; these kernels as the machine can.
  static constexpr bool single = std::is_same_v<Real, float>;

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
  Rows sum_values() { return {sum_values_.data(), padded_, head_dim_}; }

  /// scores_ [at least rows, columns] of all tokens, invisible ones included. Returns the columns:
  /// in single precision they are padded to a multiple of eight.
  Index score(const DequantizedTokens<Real>& tokens) {
    const auto keys = tokens.keys.topRows(tokens.count);
    if constexpr (single) {
      const Index columns = round_up(tokens.count, 8);
      Rows transposed(keys_transposed_.data(), head_dim_, columns);
      transposed.leftCols(tokens.count) = keys.transpose();
      transposed.rightCols(columns - tokens.count).setZero();
      std::fill_n(scores_.data(), padded_ * columns, Real(0));
      simd::matrix_kernels().add_products(queries_.data(), head_dim_, transposed.data(), columns,
                                          scores_.data(), columns, padded_, head_dim_, columns);
      return columns;
    } else {
      Rows(scores_.data(), padded_, tokens.count).noalias() =
          queries().lazyProduct(keys.transpose());
      return tokens.count;
    }
  }

  /// Minus infinity for tokens that are not `visible`, for padding, and for columns that are no
  /// tokens.
  static void mask_scores(const DequantizedTokens<Real>& tokens, const TokenRange& visible,
                          Index columns, Real* score) {
    const auto [begin, end] = visible.among(tokens.first, tokens.count);
    std::fill(score, score + begin, minus_infinity);
    std::fill(score + end, score + columns, minus_infinity);
    if (!tokens.has_padding) return;
    for (Index t = begin; t < end; ++t)
      if (!tokens.valid[t]) score[t] = minus_infinity;
  }

  static Real exponentiate(Real* score, Index count, Real& max) {
    if constexpr (single) {
      float sum;
      simd::vector_kernels().exponentiate(score, 0, 1, count, &max, &sum);
      return sum;
    } else {
      for (Index t = 0; t < count; ++t) max = std::max(max, score[t]);
      Real sum = 0;
      for (Index t = 0; t < count; ++t) {
        score[t] = score[t] == minus_infinity ? Real(0) : std::exp(score[t] - max);
        sum += score[t];
      }
      return sum;
    }
  }

  Index rows_ = 0;
  Index padded_ = 0;  // rows_ rounded up
  Index head_dim_ = 0;
  std::vector<Real> queries_, sum_values_;  // [padded, head_dim]
  std::vector<Real> scores_;                // [padded, columns]
  std::vector<Real> keys_transposed_;       // [head_dim, columns]
  std::vector<Real> max_, sum_;             // [rows]
  std::vector<TokenRange> visible_;         // [rows]
};

}  // namespace squat::detail
