// Softmax attention whose keys and values come a block at a time.
#pragma once

#include <cmath>
#include <limits>
#include <squat/detail/attention/dequantized_tokens.hpp>
#include <squat/detail/attention/partial_attention.hpp>
#include <squat/detail/simd/dispatch.hpp>
#include <squat/merged_attention.hpp>

namespace squat::detail {

/// Attention of a tile of query rows over the tokens of one kv head (online softmax: Milakov &
/// Gimelshein 2018). reserve() is the only call that allocates.
template <class Real>
class OnlineSoftmax {
 public:
  using Rows = Eigen::Map<Matrix<Real>>;

  /// Makes room for tiles of `rows` queries.
  void reserve(Index rows, Index head_dim, Index value_dim) {
    const auto room = [](std::vector<Real>& memory, Index numbers) {
      if (static_cast<Index>(memory.size()) < numbers)
        memory.resize(static_cast<std::size_t>(numbers));
    };
    const Index padded = round_up(rows, row_multiple);
    room(queries_, padded * head_dim);
    room(sum_values_, padded * value_dim);
    room(scores_, padded * DequantizedTokens<Real>::capacity);
    room(keys_transposed_, head_dim * DequantizedTokens<Real>::capacity);
    room(max_, rows);
    room(sum_, rows);
    if (static_cast<Index>(visible_.size()) < rows) visible_.resize(static_cast<std::size_t>(rows));
  }

  /// Starts a tile of `rows` queries; fill queries(), already times the softmax scale.
  void start(Index rows, Index head_dim, Index value_dim) {
    rows_ = rows;
    padded_ = round_up(rows, row_multiple);
    head_dim_ = head_dim;
    value_dim_ = value_dim;
    queries().bottomRows(padded_ - rows).setZero();
    sum_values().setZero();
    std::fill_n(max_.data(), rows, minus_infinity);
    std::fill_n(sum_.data(), rows, Real(0));
  }

  Rows queries() { return {queries_.data(), padded_, head_dim_}; }  ///< [at least rows, head_dim]
  /// What each row sees of tokens that come next [rows].
  TokenRange* visible() { return visible_.data(); }

  /// Room for a number a row, until something is absorbed [rows].
  Real* sums() { return sum_.data(); }

  /// Takes in tokens. adjust(tokens, row, scores) makes scores of the products of a row.
  template <class Adjust>
  void absorb(const DequantizedTokens<Real>& tokens, const Adjust& adjust) {
    const Index columns = score(tokens);
    for (Index row = 0; row < rows_; ++row) {
      Real* score = scores_.data() + row * columns;
      adjust(tokens, row, score);
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
                                          tokens.values.cols(), sum_values_.data(), value_dim_,
                                          padded_, tokens.count, value_dim_);
    else  // a lazy product allocates nothing
      sum_values() +=
          Rows(scores_.data(), padded_, columns).lazyProduct(tokens.values.topRows(tokens.count));
  }

  /// Adds the probabilities that rows give to tokens to received[t], t < tokens.count, where the
  /// log_sum_exp [rows] of all their scores is known; it is minus infinity for rows that give none.
  template <class Adjust>
  void weigh(const DequantizedTokens<Real>& tokens, const Adjust& adjust, const Real* log_sum_exp,
             float* received) {
    const Index columns = score(tokens);
    for (Index row = 0; row < rows_; ++row) {
      if (is_minus_infinity(log_sum_exp[row])) continue;
      Real* score = scores_.data() + row * columns;
      adjust(tokens, row, score);
      mask_scores(tokens, visible_[at(row)], columns, score);
      for (Index t = 0; t < tokens.count; ++t)
        received[t] += static_cast<float>(std::exp(score[t] - log_sum_exp[row]));
    }
  }

  /// Takes in attention over other tokens of rows [first, first + count), the sums of a row
  /// `stride` apart.
  void absorb(const PartialAttention& partial, Index first, Index count, Index stride) {
    for (Index i = 0; i < count; ++i) {
      SoftmaxSum<Real> total{max_[at(first + i)], sum_[at(first + i)]};
      total.add({static_cast<Real>(partial.max[i]), static_cast<Real>(partial.sum[i])},
                partial.sum_values + i * stride, value_dim_,
                sum_values_.data() + (first + i) * value_dim_);
      max_[at(first + i)] = total.max;
      sum_[at(first + i)] = total.sum;
    }
  }

  /// What was absorbed, as attention over a part of the tokens; its rows are `stride` apart.
  void write(const PartialAttention& partial, Index stride) const {
    for (Index row = 0; row < rows_; ++row) {
      partial.max[row] = static_cast<float>(max_[at(row)]);
      partial.sum[row] = static_cast<float>(sum_[at(row)]);
      for (Index c = 0; c < value_dim_; ++c)
        partial.sum_values[row * stride + c] =
            static_cast<float>(sum_values_[at(row * value_dim_ + c)]);
    }
  }

  /// Output of `row` into out[value_dim], with one more score, `sink`, that has no value; zero for
  /// a row that saw no token. Returns log(sum(exp(score))); minus infinity if there was none.
  template <class Scalar>
  Real finish(Index row, const Real& sink, Scalar* out) const {
    const Real max = std::max(max_[at(row)], sink);
    const Real rescale = sum_[at(row)] > 0 ? std::exp(max_[at(row)] - max) : Real(0);
    const Real sum =
        sum_[at(row)] * rescale + (is_minus_infinity(sink) ? Real(0) : std::exp(sink - max));
    const Real factor = sum > 0 ? rescale / sum : Real(0);
    const Real* const sums = sum_values_.data() + row * value_dim_;
    for (Index c = 0; c < value_dim_; ++c) out[c] = static_cast<Scalar>(sums[c] * factor);
    return max + std::log(sum);
  }

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
  Rows sum_values() { return {sum_values_.data(), padded_, value_dim_}; }

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
        score[t] = is_minus_infinity(score[t]) ? Real(0) : std::exp(score[t] - max);
        sum += score[t];
      }
      return sum;
    }
  }

  Index rows_ = 0;
  Index padded_ = 0;  // rows_ rounded up
  Index head_dim_ = 0;
  Index value_dim_ = 0;
  std::vector<Real> queries_;          // [padded, head_dim]
  std::vector<Real> sum_values_;       // [padded, value_dim]
  std::vector<Real> scores_;           // [padded, columns]
  std::vector<Real> keys_transposed_;  // [head_dim, columns]
  std::vector<Real> max_, sum_;        // [rows]
  std::vector<TokenRange> visible_;    // [rows]
};

}  // namespace squat::detail
