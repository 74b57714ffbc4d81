// Hands the error of quantized channels to the channels that are still to come.
#pragma once

#include <array>
#include <squat/detail/plan/metric_factor.hpp>
#include <squat/detail/plan/query_subspace.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail {

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
///
/// In single precision steps of 1, 2 and 4 channels are taken eight at a time: between these blocks
/// in one of the two forms, and inside a block by the dense one (inner()), which comes to the same.
template <class Real>
class ErrorFeedback {
 public:
  enum class Form { none, low_rank, dense };

  /// No feedback: what one block of all channels, or lambda = 0, amounts to.
  explicit ErrorFeedback(Index head_dim) : head_dim_(head_dim), step_(head_dim), block_(head_dim) {}

  /// If `compressed`, as compress() leaves it.
  ErrorFeedback(const QuerySubspace& subspace, Index step, bool compressed = false)
      : ErrorFeedback(subspace, step,
                      cheapest(subspace.head_dim(),
                               block_of(subspace.head_dim(), std::min(step, subspace.head_dim())),
                               subspace.rank()),
                      compressed) {}

  /// As above in a given form, which `none` cannot be.
  ErrorFeedback(const QuerySubspace& subspace, Index step, Form form, bool compressed = false)
      : head_dim_(subspace.head_dim()), step_(std::min(step, subspace.head_dim())) {
    require(step >= 1, "step is ", step, "; it must be at least 1");
    if (step_ == head_dim_ || subspace.lambda() == 0) {
      step_ = block_ = head_dim_;
      return;
    }
    block_ = block_of(head_dim_, step_);
    // One block of all channels has no feedback but inside.
    if (form == Form::dense || block_ == head_dim_)
      factor_dense(subspace.metric());
    else
      set_directions(subspace);
    if (block_ < head_dim_) form_ = form;
    is_compressed_ = compressed && form_ == Form::low_rank;
    if (form_ == Form::low_rank && !compressed) factor_low_rank(subspace);
  }

  /// Dense form for any symmetric positive definite metric A [head_dim, head_dim].
  ErrorFeedback(const Matrix<double>& metric, Index step)
      : head_dim_(metric.rows()), step_(std::min(step, metric.rows())) {
    require(step >= 1, "step is ", step, "; it must be at least 1");
    require(metric.rows() == metric.cols() && metric.rows() >= 1, "metric is [", metric.rows(),
            ", ", metric.cols(), "]; it must be square and not empty");
    block_ = block_of(head_dim_, step_);
    if (step_ == head_dim_) return;
    factor_dense(metric);
    if (block_ < head_dim_) form_ = Form::dense;
  }

  Index head_dim() const { return head_dim_; }
  Index step() const { return step_; }
  /// Channels that correct() and absorb() take at a time: step(), or eight with inner().
  Index block() const { return block_; }
  Form form() const { return form_; }
  /// Drops the tables that follow from the others, for memory's sake. expanded() makes them anew.
  void compress() {
    if (form_ != Form::low_rank) return;
    is_compressed_ = true;
    gain_.resize(0, 0);
    inner_.resize(0, 0);
  }
  bool is_compressed() const { return is_compressed_; }
  /// With all tables, of one that is compressed.
  ErrorFeedback expanded() const {
    const Matrix<Real> qhat =
        token_major() ? Matrix<Real>(-correction_) : Matrix<Real>(-correction_.transpose());
    return {QuerySubspace(qhat.template cast<double>(), lambda_), step_, Form::low_rank};
  }
  Index bytes() const {
    return (correction_.size() + gain_.size() + inner_.size()) * Index{sizeof(Real)};
  }
  /// All that is known of a metric, for a file. Sizes follow from head_dim, step and rank.
  std::array<const Matrix<Real>*, 3> tables() const { return {&correction_, &gain_, &inner_}; }
  std::array<Matrix<Real>*, 3> tables() { return {&correction_, &gain_, &inner_}; }
  bool has_inner() const { return inner_.size() > 0; }
  /// Feedback inside channels [first, first + 8): channel first + k moves by the sum over i < k of
  /// inner(first)[8 k + i] times the error (stored - corrected) of channel first + i.
  const Real* inner(Index first) const { return inner_.row(first / 8).data(); }

  /// Which way keys lie while they are quantized. Where eight channels or more take their turn
  /// together (in single precision) a row is a token [tokens, head_dim]: channels go through
  /// vectors side by side. Else a row is a channel [head_dim, tokens].
  bool token_major() const { return std::is_same_v<Real, float> && step_ % 8 == 0; }

  /// What is carried from one block of channels to the next while `tokens` tokens are quantized.
  class Carry {
   public:
    Carry(const ErrorFeedback& feedback, Index tokens) {
      const Index width =
          feedback.form_ == Form::low_rank
              ? (feedback.has_inner() ? round_up(feedback.rank_, 4) : feedback.rank_)
          : feedback.form_ == Form::dense ? feedback.head_dim_
                                          : 0;
      state_ = feedback.token_major() ? Matrix<Real>::Zero(tokens, round_up(width, 8))
                                      : Matrix<Real>::Zero(width, tokens);
    }

   private:
    friend class ErrorFeedback;
    Matrix<Real> state_;  // low rank: z of each token; dense: E of each token; lying as keys do
  };

  /// Moves the original channels [first, first + count) of `keys` to where the errors so far want
  /// them. Blocks are taken in order: first is a multiple of block().
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
    if (has_inner()) {  // eight channels of single precision, as a product of matrices
      if (form_ == Form::low_rank) {
        add_products(correction_, first, 0, used, state, keys, first, count);
      } else {
        add_products(correction_, first, 0, used, state, state, first, count);
        keys.middleRows(first, count) += state.middleRows(first, count);
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
    } else if (form_ == Form::low_rank && has_inner()) {
      add_products(gain_, 0, first, count, errors, state, 0, state.rows(), first);
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

  void set_directions(const QuerySubspace& subspace) {
    const Matrix<double>& q = subspace.qhat();
    rank_ = subspace.rank();
    lambda_ = subspace.lambda();
    correction_ = token_major() ? Matrix<Real>(-q.template cast<Real>())
                                : Matrix<Real>(-q.transpose().template cast<Real>());
  }

  void factor_low_rank(const QuerySubspace& subspace) {
    const Matrix<double>& q = subspace.qhat();
    const Index r = rank_;
    if (block_ != step_) inner_ = Matrix<Real>::Zero(head_dim_ / 8, 64);
    gain_ = token_major() ? Matrix<Real>::Zero(head_dim_, round_up(r, 8))
                          : Matrix<Real>::Zero(has_inner() ? round_up(r, 8) : r, head_dim_);
    // M^-1, by a rank-one update (Sherman-Morrison) for each channel that joins R, last ones first.
    // Of A = U D U^T it gives, on the way, D_j = 1 + q_j M^-1 q_j^T and U_ij = q_i M^-1 q_j^T /
    // D_j.
    Matrix<double> inverse = Matrix<double>::Identity(r, r) * lambda_;
    Matrix<double> u = Matrix<double>::Zero(8, 8);
    const Matrix<double> channels = q.transpose();
    Eigen::VectorXd image(r);
    for (Index channel = head_dim_ - 1; channel >= (has_inner() ? 0 : block_); --channel) {
      const double* const own = channels.row(channel).data();
      for (Index i = 0; i < r; ++i) image[i] = dot(inverse.row(i).data(), own, r);
      const double scale = 1 / (1 + dot(image.data(), own, r));
      for (Index i = channel / 8 * 8; i < channel && has_inner(); ++i)
        u(i % 8, channel % 8) = scale * dot(image.data(), channels.row(i).data(), r);
      for (Index i = 0; i < r; ++i)
        add_multiple(-scale * image[i], image.data(), r, inverse.row(i).data());
      if (has_inner() && channel % 8 == 0) set_inner(channel / 8, in_blocks(u, step_));
      if (channel % block_ != 0 || channel == 0) continue;
      for (Index j = channel - block_; j < channel; ++j)
        for (Index i = 0; i < r; ++i)
          (token_major() ? gain_(j, i) : gain_(i, j)) =
              static_cast<Real>(dot(inverse.row(i).data(), channels.row(j).data(), r));
    }
  }

  /// A = U D U^T channel by channel; U_IJ = U_iJ (U_JJ)^-1 makes it one in blocks.
  void factor_dense(const Matrix<double>& metric) {
    const Matrix<double> u = UnitUpperFactor(metric).u;
    if (block_ != step_) {
      const Matrix<double> steps = in_blocks(u, step_);
      inner_ = Matrix<Real>::Zero(head_dim_ / 8, 64);
      for (Index first = 0; first < head_dim_; first += 8)
        set_inner(first / 8, steps.block(first, first, 8, 8));
    }
    const Matrix<double> blocks = in_blocks(u, block_);
    correction_ = Matrix<Real>::Zero(head_dim_, head_dim_);
    for (Index j = block_; j < head_dim_; ++j)
      for (Index i = 0; i < j / block_ * block_; ++i)
        (token_major() ? correction_(i, j) : correction_(j, i)) = static_cast<Real>(-blocks(i, j));
  }

  /// From the part of U that eight channels take of each other, in blocks of `step`.
  void set_inner(Index block, const Matrix<double>& u) {
    for (Index j = 0; j < 8; ++j)
      for (Index i = 0; i < j / step_ * step_; ++i)
        inner_(block, 8 * j + i) = static_cast<Real>(-u(i, j));
  }

  static Matrix<double> in_blocks(Matrix<double> u, Index block) {
    for (Index j = 0; j < u.cols(); ++j)
      for (Index i = 0; i < j / block * block; ++i)
        for (Index k = j / block * block; k < j; ++k) u(i, j) -= rounded(u(i, k) * u(k, j));
    return u;
  }

  static Index block_of(Index head_dim, Index step) {
    const bool eight =
        std::is_same_v<Real, float> && head_dim % 8 == 0 && (step == 1 || step == 2 || step == 4);
    return eight ? 8 : step;
  }

  /// out += sum_r weights[r] rows[r], rows of `tokens` numbers.
  static void add_rows(const Real* rows, Index count, Index tokens, const Real* weights,
                       Real* out) {
    for (Index r = 0; r < count; ++r) add_multiple(weights[r], rows + r * tokens, tokens, out);
  }

  /// out[.][out_column..] += a[.][a_column, +n) * b[b_row, +n)[b_column..], `columns` columns.
  static void add_products(const Matrix<Real>& a, Index a_column, Index n, const Matrix<Real>& b,
                           Index b_row, Index b_column, Matrix<Real>& out, Index out_column,
                           Index columns) {
    if constexpr (std::is_same_v<Real, float>)
      simd::matrix_kernels().add_products(
          a.data() + a_column, a.cols(), b.data() + b_row * b.cols() + b_column, b.cols(),
          out.data() + out_column, out.cols(), a.rows(), n, columns);
  }

  /// Where tokens lie along rows:
  /// out[out_row + ., .] += a[a_row + ., a_column, +n) * b[b_row, +n)[.], `rows` rows.
  static void add_products(const Matrix<Real>& a, Index a_row, Index a_column, Index n,
                           const Matrix<Real>& b, Matrix<Real>& out, Index out_row, Index rows,
                           Index b_row = 0) {
    if constexpr (std::is_same_v<Real, float>)
      simd::matrix_kernels().add_products(
          a.data() + a_row * a.cols() + a_column, a.cols(), b.data() + b_row * b.cols(), b.cols(),
          out.data() + out_row * out.cols(), out.cols(), rows, n, b.cols());
  }

  Index head_dim_;
  Index step_;
  Index block_;
  Index rank_ = 0;
  Form form_ = Form::none;
  double lambda_ = 0;  // of a low rank
  bool is_compressed_ = false;
  // What moves channel j, in row j, or if token_major() in column j: minus column j of Qhat (rank
  // numbers), or minus column j of U (head_dim numbers).
  Matrix<Real> correction_;
  // Low rank: channel j's row of L_J (rank numbers), in column j, or if token_major() in row j.
  Matrix<Real> gain_;
  Matrix<Real> inner_;  // [head_dim / 8, 8, 8]
};

}  // namespace squat::detail
