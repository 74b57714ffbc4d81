// The feedback against brute force: linear algebra on the whole metric, in double.
#include <gtest/gtest.h>

#include <Eigen/Dense>

#include <Eigen/Cholesky>
#include <algorithm>
#include <ostream>
#include <vector>

#include "fixtures.hpp"
#include "random_matrix.hpp"
#include "round_trip.hpp"

namespace squat::testing {

using namespace detail;
namespace {

using Feedback = ErrorFeedback<double>;

struct Setting {
  Index head_dim, step, rank;
  double lambda;
};

std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << "head_dim " << s.head_dim << ", step " << s.step << ", rank " << s.rank
             << ", lambda " << s.lambda;
}

/// Every combination that a head_dim leaves room for; steps that do not divide head_dim too.
std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (const Index head_dim : {8, 24, 40})
    for (const Index step : {1, 2, 3, 7, 16})
      for (const Index rank : {1, 5, 40})
        for (const double lambda : {0.001, 0.1, 10.0})
          if (step < head_dim && rank <= head_dim) all.push_back({head_dim, step, rank, lambda});
  return all;
}

QuerySubspace random_subspace(const Setting& s, unsigned seed) {
  SecondMoment moment(s.head_dim);
  moment.add<double>(correlated_matrix(3 * s.head_dim, s.head_dim, seed));
  return QuerySubspace::fit(moment, s.rank, s.lambda);
}

/// How far each channel is moved before its turn, given the error made in every channel
/// (`errors` [head_dim, tokens]: stored - corrected).
template <class Real = double>
Matrix<double> moves(const ErrorFeedback<Real>& feedback, const Matrix<double>& errors) {
  const bool transposed = feedback.token_major();
  const Matrix<Real> made = (transposed ? Matrix<double>(errors.transpose()) : errors).cast<Real>();
  // The original keys do not matter; zeros make the corrected keys the moves.
  Matrix<Real> keys = Matrix<Real>::Zero(made.rows(), made.cols());
  typename ErrorFeedback<Real>::Carry carry(feedback, errors.cols());
  for (Index first = 0; first < errors.rows(); first += feedback.block()) {
    const Index count = std::min(feedback.block(), errors.rows() - first);
    feedback.correct(keys, first, count, carry);
    if (!feedback.has_inner()) {
      feedback.absorb(made, first, count, carry);
      continue;
    }
    // Inside a block errors count from where the block began.
    const Matrix<Real> began = keys.middleRows(first, 8);
    Matrix<Real> total = Matrix<Real>::Zero(made.rows(), made.cols());
    for (Index k = 0; k < 8; ++k) {
      for (Index i = 0; i < k; ++i)
        keys.row(first + k) += feedback.inner(first)[8 * k + i] * total.row(first + i);
      total.row(first + k) = keys.row(first + k) - began.row(k) + made.row(first + k);
    }
    feedback.absorb(total, first, count, carry);
  }
  const Matrix<double> moved = keys.template cast<double>();
  return transposed ? Matrix<double>(moved.transpose()) : moved;
}

/// delta_R = -e A_JR A_RR^-1, applied block by block as the paper has it.
Matrix<double> explicit_moves(const Matrix<double>& A, Index step, const Matrix<double>& errors) {
  const Index d = A.rows();
  Matrix<double> moves = Matrix<double>::Zero(d, errors.cols());
  for (Index first = 0; first + step < d; first += step) {
    const Index rest = d - first - step;
    const Matrix<double> A_JR = A.block(first, first + step, step, rest);
    const Matrix<double> A_RR = A.bottomRightCorner(rest, rest);
    moves.bottomRows(rest) -= A_RR.ldlt().solve(A_JR.transpose() * errors.middleRows(first, step));
  }
  return moves;
}

double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
  return (a - b).cwiseAbs().maxCoeff();
}

TEST(ErrorFeedback, EveryFormMovesKeysAsTheFormulaSays) {
  for (const Setting& s : settings()) {
    SCOPED_TRACE(s);
    const QuerySubspace subspace = random_subspace(s, 1);
    const Matrix<double> errors = random_matrix(s.head_dim, 6, 2);
    const Matrix<double> expected = explicit_moves(subspace.metric(), s.step, errors);
    const double tolerance = 1e-9 * (1 + expected.cwiseAbs().maxCoeff());
    for (const Feedback& feedback :
         {Feedback(subspace, s.step), Feedback(subspace.metric(), s.step),
          Feedback(subspace, s.step, Feedback::Form::low_rank),
          Feedback(subspace, s.step, Feedback::Form::dense)})
      EXPECT_LE(largest_difference(moves(feedback, errors), expected), tolerance);
  }
}

TEST(ErrorFeedback, MovesAlikeInSinglePrecision) {
  using Single = ErrorFeedback<float>;
  for (const Setting& s : settings()) {
    SCOPED_TRACE(s);
    const QuerySubspace subspace = random_subspace(s, 1);
    const Matrix<double> errors = random_matrix(s.head_dim, 32, 2);
    const Matrix<double> expected = moves(Feedback(subspace, s.step), errors);
    const double tolerance = 1e-3 * (1 + expected.cwiseAbs().maxCoeff());
    for (const Single::Form form : {Single::Form::low_rank, Single::Form::dense})
      EXPECT_LE(largest_difference(moves(Single(subspace, s.step, form), errors), expected),
                tolerance);
  }
}

/// The smallest delta A delta^T of each token over all that channels [fixed, head_dim) could do,
/// given delta [head_dim, tokens] of those before.
Eigen::VectorXd smallest_cost(const Matrix<double>& A, const Matrix<double>& delta, Index fixed) {
  const Index rest = A.rows() - fixed;
  Matrix<double> full = delta;
  if (rest > 0)
    full.bottomRows(rest) = -A.bottomRightCorner(rest, rest)
                                 .ldlt()
                                 .solve(A.bottomLeftCorner(rest, fixed) * delta.topRows(fixed));
  return (full.array() * (A * full).array()).colwise().sum().transpose();
}

TEST(ErrorFeedback, NoOtherMoveCostsLess) {
  unsigned seed = 5;
  for (const Setting& s : settings()) {
    SCOPED_TRACE(s);
    const QuerySubspace subspace = random_subspace(s, 3);
    const Matrix<double> A = subspace.metric();
    const Index tokens = 4;
    const Matrix<double> errors = random_matrix(s.head_dim, tokens, 4);
    const Matrix<double> made = moves(Feedback(subspace, s.step), errors);
    for (Index first = s.step; first < s.head_dim; first += s.step) {
      const Index count = std::min(s.step, s.head_dim - first);
      // What is before stays; the block moves but makes no error; what follows does its best.
      Matrix<double> delta = made + errors;
      delta.middleRows(first, count) = made.middleRows(first, count);
      const Eigen::VectorXd cost = smallest_cost(A, delta, first + count);
      EXPECT_LE((cost - smallest_cost(A, delta, first)).cwiseAbs().maxCoeff(),
                1e-9 * (1 + cost.maxCoeff()));
      for (const double size : {1e-3, 0.1, 3.0}) {
        Matrix<double> other = delta;
        other.middleRows(first, count) += size * random_matrix(count, tokens, ++seed);
        const Eigen::VectorXd other_cost = smallest_cost(A, other, first + count);
        EXPECT_TRUE((other_cost.array() > cost.array()).all()) << "channel " << first;
      }
    }
  }
}

/// delta A delta^T of 2-bit keys, averaged over tokens.
double cost_of_quantization(const Matrix<double>& keys, const Matrix<double>& A,
                            const Feedback& feedback) {
  const Matrix<double> delta =
      round_trip_keys<double, 2>(keys, feedback, single_precision_scales(32)) - keys;
  return (delta * A).cwiseProduct(delta).sum() / static_cast<double>(keys.rows());
}

TEST(ErrorFeedback, PaysOnRandomStates) {
  const Index head_dim = 64;
  for (const Index step : {1, 4, 16}) {
    double with = 0, without = 0;
    for (unsigned seed = 100; seed < 110; ++seed) {
      const QuerySubspace subspace = random_subspace({head_dim, step, 10, 0.1}, seed);
      const Matrix<double> A = subspace.metric();
      const Matrix<double> keys = correlated_matrix(64, head_dim, seed + 50);
      with += cost_of_quantization(keys, A, Feedback(subspace, step));
      without += cost_of_quantization(keys, A, Feedback(head_dim));
    }
    EXPECT_LT(with, 0.5 * without) << "step " << step;
  }
}

TEST(ErrorFeedback, PaysInEveryOracleCase) {
  int cases = 0;
  for (const fixtures::KeyCase& c : fixtures::load_key_cases()) {
    const Feedback feedback(c.metric, c.step);
    if (feedback.form() == Feedback::Form::none || c.lambda == 0) continue;
    EXPECT_LT(cost_of_quantization(c.keys, c.metric, feedback),
              cost_of_quantization(c.keys, c.metric, Feedback(c.keys.cols())))
        << c.name;
    ++cases;
  }
  EXPECT_GE(cases, 20);
}

TEST(ErrorFeedback, IsTheSameFromWhatIsKeptOfIt) {
  const auto check = [](auto real) {
    using Real = decltype(real);
    unsigned seed = 100;
    for (const Setting& s : settings()) {
      const ErrorFeedback<Real> whole(random_subspace(s, seed++), s.step);
      ErrorFeedback<Real> kept = whole;
      kept.compress();
      EXPECT_LE(kept.bytes(), whole.bytes());
      if (whole.form() == ErrorFeedback<Real>::Form::low_rank) {
        EXPECT_EQ(kept.bytes(), s.head_dim * s.rank * Index{sizeof(Real)});
      }
      const ErrorFeedback<Real> again = kept.is_compressed() ? kept.expanded() : kept;
      EXPECT_EQ(again.form(), whole.form());
      const Matrix<double> errors = random_matrix(s.head_dim, 32, seed++);
      const Matrix<double> expected = moves(whole, errors), found = moves(again, errors);
      EXPECT_LE((found - expected).norm(),
                (std::is_same_v<Real, double> ? 1e-9 : 1e-3) * (1 + expected.norm()));
    }
  };
  check(1.0);
  check(1.0f);
}

TEST(ErrorFeedback, TakesTheCheaperForm) {
  const QuerySubspace narrow = random_subspace({64, 1, 4, 0.1}, 7);
  const QuerySubspace wide = random_subspace({64, 1, 60, 0.1}, 7);
  EXPECT_EQ(Feedback(narrow, 1).form(), Feedback::Form::low_rank);
  EXPECT_EQ(Feedback(wide, 1).form(), Feedback::Form::dense);
  EXPECT_LT(Feedback(narrow, 1).bytes(), Feedback(wide, 1).bytes());
}

TEST(ErrorFeedback, IsNoneForOneBlockOrNoWeight) {
  const QuerySubspace subspace = random_subspace({16, 1, 4, 0.1}, 8);
  const QuerySubspace weightless = random_subspace({16, 1, 4, 0}, 8);
  const Matrix<double> errors = random_matrix(16, 3, 9);
  for (const Feedback& feedback :
       {Feedback(16), Feedback(subspace, 16), Feedback(subspace, 64), Feedback(weightless, 1),
        Feedback(subspace, 16, Feedback::Form::low_rank), Feedback(subspace.metric(), 16)}) {
    EXPECT_EQ(feedback.form(), Feedback::Form::none);
    EXPECT_EQ(feedback.step(), 16);
    EXPECT_EQ(feedback.bytes(), 0);
    EXPECT_EQ(moves(feedback, errors).cwiseAbs().maxCoeff(), 0);
  }
}

}  // namespace
}  // namespace squat::testing
