// Hands the error of quantized channels to the channels that are still to come.
#pragma once

#include <Eigen/Cholesky>
#include <squat/query_subspace.hpp>

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
  Index bytes() const { return (qhat_.size() + gain_.size()) * Index{sizeof(Real)}; }

  /// What is carried from one block of channels to the next while `tokens` tokens are quantized.
  class Carry {
   public:
    Carry(const ErrorFeedback& feedback, Index tokens)
        : state_(Matrix<Real>::Zero(feedback.form_ == Form::low_rank ? feedback.qhat_.rows()
                                    : feedback.form_ == Form::dense  ? feedback.head_dim_
                                                                     : 0,
                                    tokens)) {}

   private:
    friend class ErrorFeedback;
    Matrix<Real> state_;  // low rank: z [rank, tokens]; dense: E [head_dim, tokens]
  };

  /// Moves the original channels [first, first + count) of `keys` [head_dim, tokens] to where the
  /// errors so far want them. Blocks are taken in order: first is a multiple of step().
  void correct(Matrix<Real>& keys, Index first, Index count, Carry& carry) const {
    if (first == 0) return;
    auto channels = keys.middleRows(first, count);
    if (form_ == Form::low_rank) {
      channels.noalias() -= qhat_.middleCols(first, count).transpose() * carry.state_;
    } else if (form_ == Form::dense) {
      auto moved = carry.state_.middleRows(first, count);
      moved.noalias() -=
          gain_.block(0, first, first, count).transpose() * carry.state_.topRows(first);
      channels += moved;
    }
  }

  /// Takes in the `errors` [count, tokens] (stored - corrected) of channels [first, first + count).
  template <class Errors>
  void absorb(const Errors& errors, Index first, Carry& carry) const {
    const Index count = errors.rows();
    if (first + count == head_dim_) return;
    if (form_ == Form::low_rank)
      carry.state_.noalias() += gain_.middleRows(first, count).transpose() * errors;
    else if (form_ == Form::dense)
      carry.state_.middleRows(first, count) += errors;
  }

 private:
  static Form cheapest(Index d, Index step, Index rank) {
    return 4 * rank <= d - step ? Form::low_rank : Form::dense;
  }

  void factor_low_rank(const QuerySubspace& subspace) {
    const Matrix<double>& q = subspace.qhat();
    const Index r = subspace.rank();
    Matrix<double> gain = Matrix<double>::Zero(head_dim_, r);
    Eigen::MatrixXd m = Eigen::MatrixXd::Identity(r, r) / subspace.lambda();
    // From the last block to the first, M grows by one block of channels at a time.
    for (Index first = last_block(); first > 0; first -= step_) {
      const auto remaining = q.middleCols(first, std::min(step_, head_dim_ - first));
      m.noalias() += remaining * remaining.transpose();
      gain.middleRows(first - step_, step_) =
          m.llt().solve(q.middleCols(first - step_, step_)).transpose();
    }
    qhat_ = q.template cast<Real>();
    gain_ = gain.template cast<Real>();
  }

  /// A = U D U^T by elimination from the last block of channels: U_IJ = S_IJ S_JJ^-1, S the Schur
  /// complement of the blocks behind J.
  void factor_dense(Matrix<double> a) {
    Matrix<double> u = Matrix<double>::Zero(head_dim_, head_dim_);
    for (Index first = last_block(); first > 0; first -= step_) {
      const Index count = std::min(step_, head_dim_ - first);
      const Eigen::LLT<Eigen::MatrixXd> d(a.block(first, first, count, count));
      require(d.info() == Eigen::Success, "metric is not positive definite at channel ", first);
      const Eigen::MatrixXd above = a.block(0, first, first, count);
      u.block(0, first, first, count) = d.solve(above.transpose()).transpose();
      a.topLeftCorner(first, first).noalias() -=
          u.block(0, first, first, count) * above.transpose();
    }
    gain_ = u.template cast<Real>();
  }

  Index last_block() const { return (head_dim_ - 1) / step_ * step_; }

  Index head_dim_;
  Index step_;
  Form form_ = Form::none;
  Matrix<Real> qhat_;  // low rank: Qhat [rank, head_dim]
  Matrix<Real> gain_;  // low rank: row j is channel j's part of L_J [head_dim, rank]; dense: U
};

}  // namespace squat
