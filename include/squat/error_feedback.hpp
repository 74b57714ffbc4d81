// Hands the error of quantized channels to the channels that are still to come.
#pragma once

#include <squat/query_subspace.hpp>
#include <squat/simd/encode.hpp>

namespace squat {

/// The feedback of SQuat (section 4.3) for one kv head: once channels J are quantized with error e,
/// the channels R that remain move by delta_R = -e A_JR A_RR^-1, the minimiser of delta A delta^T
/// with e fixed. Channels go `step` at a time. Two forms of the same update, whichever takes fewer
/// operations:
///
/// - low rank: z (rank values a token) gathers z += e_J L_J with L_J = Qhat_J^T M_J^-1 and
///   M_J = I / lambda + Qhat_R Qhat_R^T, and a channel j about to be quantized moves by -z Qhat_j:
///   2 d r operations a token;
/// - dense: with A = U D U^T, U unit upper triangular in blocks of `step`, channels J move by
///   -sum_{I<J} E_I U_IJ, E the difference of stored and original key: d (d - step) / 2 operations.
template <class Real>
class ErrorFeedback {
 public:
  enum class Form { none, low_rank, dense };

  /// No feedback: what one block of all channels, or lambda = 0, amounts to.
  explicit ErrorFeedback(Index head_dim) : head_dim_(head_dim), step_(head_dim) {}

  ErrorFeedback(const QuerySubspace& subspace, Index step)
      : ErrorFeedback(
            subspace, step,
            cheapest(subspace.head_dim(), std::min(step, subspace.head_dim()), subspace.rank())) {}

  /// As above in a given form, which `none` cannot be.
  ErrorFeedback(const QuerySubspace& subspace, Index step, Form form)
      : head_dim_(subspace.head_dim()), step_(std::min(step, subspace.head_dim())) {
    require(step >= 1, "step is ", step, "; it must be at least 1");
    if (step_ == head_dim_ || subspace.lambda() == 0) {
      step_ = head_dim_;
      return;
    }
    form_ = form;
    if (form == Form::low_rank)
      factor_low_rank(subspace);
    else
      factor_dense(subspace.metric());
  }

  /// Dense form for any symmetric positive definite metric A [head_dim, head_dim].
  ErrorFeedback(const Matrix<double>& metric, Index step)
      : head_dim_(metric.rows()), step_(std::min(step, metric.rows())) {
    require(step >= 1, "step is ", step, "; it must be at least 1");
    require(metric.rows() == metric.cols() && metric.rows() >= 1, "metric is [", metric.rows(),
            ", ", metric.cols(), "]; it must be square and not empty");
    if (step_ == head_dim_) return;
    form_ = Form::dense;
    factor_dense(metric);
  }

  Index head_dim() const { return head_dim_; }
  Index step() const { return step_; }
  Form form() const { return form_; }
  Index bytes() const { return (correction_.size() + gain_.size()) * Index{sizeof(Real)}; }

  /// Which way keys lie while they are quantized. Where eight channels or more take their turn
  /// together (in single precision) a row is a token [tokens, head_dim]: channels go through
  /// vectors side by side. Else a row is a channel [head_dim, tokens].
  bool token_major() const { return std::is_same_v<Real, float> && step_ % 8 == 0; }

  /// What is carried from one block of channels to the next while `tokens` tokens are quantized.
  class Carry {
   public:
    Carry(const ErrorFeedback& feedback, Index tokens) {
      const Index width = feedback.form_ == Form::low_rank ? feedback.rank_
                          : feedback.form_ == Form::dense  ? feedback.head_dim_
                                                           : 0;
      state_ = feedback.token_major() ? Matrix<Real>::Zero(tokens, round_up(width, 8))
                                      : Matrix<Real>::Zero(width, tokens);
    }

   private:
    friend class ErrorFeedback;
    Matrix<Real> state_;  // low rank: z of each token; dense: E of each token; lying as keys do
  };

  /// Moves the original channels [first, first + count) of `keys` to where the errors so far want
  /// them. Blocks are taken in order: first is a multiple of step().
  void correct(Matrix<Real>& keys, Index first, Index count, Carry& carry) const {
    if (first == 0 || form_ == Form::none) return;
    Matrix<Real>& state = carry.state_;
    const Index used = form_ == Form::low_rank ? rank_ : first;
    if (token_major()) {
      if (form_ == Form::low_rank) {
        add_products(state, 0, used, correction_, 0, first, keys, first, count);
      } else {
        // E of these channels begins as their move; absorb() adds the rounding error.
        add_products(state, 0, used, correction_, 0, first, state, first, count);
        keys.middleCols(first, count) += state.middleCols(first, count);
      }
      return;
    }
    for (Index channel = first; channel < first + count; ++channel) {
      Real* key = keys.row(channel).data();
      const Real* weights = correction_.row(channel).data();
      if (form_ == Form::low_rank) {
        add_rows(state.data(), used, state.cols(), weights, key);
      } else {
        Real* moved = state.row(channel).data();
        add_rows(state.data(), used, state.cols(), weights, moved);
        for (Index t = 0; t < state.cols(); ++t) key[t] += moved[t];
      }
    }
  }

  /// Takes in the errors (stored - corrected) of channels [first, first + count), which stand where
  /// their keys did in `errors`.
  void absorb(const Matrix<Real>& errors, Index first, Index count, Carry& carry) const {
    if (first + count == head_dim_ || form_ == Form::none) return;
    Matrix<Real>& state = carry.state_;
    if (token_major()) {
      if (form_ == Form::low_rank)
        add_products(errors, first, count, gain_, first, 0, state, 0, state.cols());
      else
        state.middleCols(first, count) += errors.middleCols(first, count);
    } else if (form_ == Form::low_rank) {
      for (Index i = 0; i < rank_; ++i)
        add_rows(errors.row(first).data(), count, state.cols(), gain_.row(i).data() + first,
                 state.row(i).data());
    } else {
      state.middleRows(first, count) += errors.middleRows(first, count);
    }
  }

 private:
  static Form cheapest(Index d, Index step, Index rank) {
    return 4 * rank <= d - step ? Form::low_rank : Form::dense;
  }

  void factor_low_rank(const QuerySubspace& subspace) {
    const Matrix<double>& q = subspace.qhat();
    const Index r = subspace.rank();
    rank_ = r;
    if (token_major()) {
      correction_ = -q.template cast<Real>();
      gain_ = Matrix<Real>::Zero(head_dim_, round_up(r, 8));
    } else {
      correction_ = -q.transpose().template cast<Real>();
      gain_ = Matrix<Real>::Zero(r, head_dim_);
    }
    // M^-1, by a rank-one update (Sherman-Morrison) for each channel that joins R, last ones first.
    Matrix<double> inverse = Matrix<double>::Identity(r, r) * subspace.lambda();
    Eigen::VectorXd image(r);
    for (Index channel = head_dim_ - 1; channel >= step_; --channel) {
      for (Index i = 0; i < r; ++i) image[i] = inverse.row(i).dot(q.col(channel));
      const double scale = 1 / (1 + image.dot(q.col(channel)));
      for (Index i = 0; i < r; ++i) inverse.row(i) -= scale * image[i] * image.transpose();
      if (channel % step_ != 0) continue;
      for (Index j = channel - step_; j < channel; ++j)
        for (Index i = 0; i < r; ++i)
          (token_major() ? gain_(j, i) : gain_(i, j)) =
              static_cast<Real>(inverse.row(i).dot(q.col(j)));
    }
  }

  /// A = U D U^T channel by channel from the last; then U_IJ = U_iJ (U_JJ)^-1 makes it one in
  /// blocks.
  void factor_dense(Matrix<double> a) {
    for (Index j = head_dim_ - 1; j > 0; --j) {
      const double d = a(j, j);
      require(d > 0, "metric is not positive definite at channel ", j);
      for (Index i = 0; i < j; ++i) {
        const double u = a(i, j) / d;
        for (Index k = i; k < j; ++k) a(i, k) -= u * a(k, j);
      }
      // Only now: column j of A was needed above.
      for (Index i = 0; i < j; ++i) a(i, j) /= d;
    }
    correction_ = Matrix<Real>::Zero(head_dim_, head_dim_);
    for (Index first = step_; first < head_dim_; first += step_)
      for (Index j = first; j < std::min(first + step_, head_dim_); ++j)
        for (Index i = 0; i < first; ++i) {
          for (Index k = first; k < j; ++k) a(i, j) -= a(i, k) * a(k, j);
          (token_major() ? correction_(i, j) : correction_(j, i)) = static_cast<Real>(-a(i, j));
        }
  }

  /// out += sum_r weights[r] rows[r], rows of `tokens` numbers.
  static void add_rows(const Real* rows, Index count, Index tokens, const Real* weights,
                       Real* out) {
    if constexpr (std::is_same_v<Real, float>) {
      simd::vector_kernels().add_rows(rows, count, tokens, weights, out);
    } else {
      for (Index r = 0; r < count; ++r)
        for (Index t = 0; t < tokens; ++t) out[t] += weights[r] * rows[r * tokens + t];
    }
  }

  /// out[.][out_column..] += a[.][a_column, +n) * b[b_row, +n)[b_column..], `columns` columns.
  static void add_products(const Matrix<Real>& a, Index a_column, Index n, const Matrix<Real>& b,
                           Index b_row, Index b_column, Matrix<Real>& out, Index out_column,
                           Index columns) {
    if constexpr (std::is_same_v<Real, float>)
      simd::encode_kernels<2>().add_products(
          a.data() + a_column, a.cols(), b.data() + b_row * b.cols() + b_column, b.cols(),
          out.data() + out_column, out.cols(), a.rows(), n, columns);
  }

  Index head_dim_;
  Index step_;
  Index rank_ = 0;
  Form form_ = Form::none;
  // What moves channel j, in row j, or if token_major() in column j: minus column j of Qhat (rank
  // numbers), or minus column j of U (head_dim numbers).
  Matrix<Real> correction_;
  // Low rank: channel j's row of L_J (rank numbers), in column j, or if token_major() in row j.
  Matrix<Real> gain_;
};

}  // namespace squat
