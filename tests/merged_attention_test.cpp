// Attention over parts of the tokens, merged, against attention over all of them.
#include <gtest/gtest.h>

#include <random>
#include <squat/squat.hpp>
#include <string>
#include <vector>

#include "attended.hpp"
#include "dense_attention.hpp"
#include "expect_error.hpp"
#include "random_matrix.hpp"
#include "same_bytes.hpp"

namespace squat::testing {

using namespace detail;
namespace {

/// What merging adds to the errors of its parts, relative to the largest value: a log-sum-exp that
/// is off by e puts its part's weight off by 2 e, and the weighted means of values that follow are
/// no larger than the values. The last term is the float or double arithmetic.
template <class Scalar>
double merging_error(double largest_log, double parts) {
  return 2 * roundoff<float>() * largest_log + 2 * roundoff<Scalar>() +
         (parts + 8) * roundoff<ComputeType<Scalar>>();
}

double largest_finite(const Matrix<double>& x) {
  return x.array().isFinite().select(x.array().abs(), 0).maxCoeff();
}

template <class Scalar>
Attended<Scalar> merge(const ModelShape& shape, const std::vector<Attended<Scalar>>& parts) {
  Attended<Scalar> all(shape, parts.front().out.rows());
  MergedAttention<Scalar> merged(shape, all.out.rows());
  for (const Attended<Scalar>& part : parts) merged.add(part.out, part.log_sum_exp);
  merged.write(all.out, all.log_sum_exp.data());
  return all;
}

template <class Scalar>
class MergedAttentionOf : public ::testing::Test {};
using MergedScalars = ::testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(MergedAttentionOf, MergedScalars, );

/// Each row over all tokens that `belongs` has, in double; where there are none NaN, and minus
/// infinity.
template <class Scalar>
Attended<Scalar> attend_to(const ModelShape& shape, const Matrix<double>& queries,
                           const Matrix<double>& keys, const Matrix<double>& values,
                           const std::vector<Index>& belongs) {
  Attended<Scalar> part(shape, queries.rows());
  if (belongs.empty()) return part;
  for (Index row = 0; row < queries.rows(); ++row) {
    Matrix<double> log_sum_exp;
    part.out.row(row) = dense_attention<double>(shape, queries.row(row), keys(belongs, Eigen::all),
                                                values(belongs, Eigen::all), {}, &log_sum_exp)
                            .template cast<Scalar>();
    part.log_sum_exp.row(row) = log_sum_exp.cast<float>();
  }
  return part;
}

TYPED_TEST(MergedAttentionOf, PartsIsAttentionOverTheirUnion) {
  using Scalar = TypeParam;
  ModelShape shape{1, 4, 2, 16};
  constexpr Index rows = 3, tokens = 40;
  std::mt19937 random(1);
  for (const double scale : {0.25, 25.0})  // scores of about 1, and of hundreds
    for (unsigned seed = 1; seed <= 10; ++seed) {
      SCOPED_TRACE("scale " + std::to_string(scale) + ", seed " + std::to_string(seed));
      shape.softmax_scale = scale;
      const Matrix<double> queries = random_matrix(rows, 4 * 16, 3 * seed),
                           keys = random_matrix(tokens, 2 * 16, 3 * seed + 1),
                           values = random_matrix(tokens, 2 * 16, 3 * seed + 2);
      std::vector<std::vector<Index>> sets(1 + random() % 6);
      std::vector<Index> everything;
      for (Index token = 0; token < tokens; ++token) {
        sets[random() % sets.size()].push_back(token);
        everything.push_back(token);
      }
      sets.insert(sets.begin() + static_cast<int>(random() % sets.size()), std::vector<Index>{});
      std::vector<Attended<Scalar>> parts;
      for (const auto& set : sets)
        parts.push_back(attend_to<Scalar>(shape, queries, keys, values, set));
      const auto expected = attend_to<double>(shape, queries, keys, values, everything);

      const double largest_log = largest_finite(expected.log_sum_exp.template cast<double>());
      const double error = merging_error<Scalar>(largest_log, static_cast<double>(parts.size()));
      const auto check = [&](const Attended<Scalar>& all, double merges) {
        expect_near(all.out, expected.out, merges * error * values.cwiseAbs().maxCoeff());
        expect_near(all.log_sum_exp, expected.log_sum_exp.template cast<double>(), merges * error);
      };
      check(merge(shape, parts), 1);
      // Of what was merged already, too.
      const std::vector<Attended<Scalar>> first(parts.begin(), parts.begin() + 1),
          others(parts.begin() + 1, parts.end());
      check(merge<Scalar>(shape, {merge(shape, others), merge(shape, first)}), 2);
    }
}

TYPED_TEST(MergedAttentionOf, OnePartIsThatPart) {
  using Scalar = TypeParam;
  const ModelShape shape{1, 4, 2, 16};
  Attended<Scalar> part(shape, 2);
  part.out = random_matrix<Scalar>(2, 4 * 16, 1);
  part.log_sum_exp = 50.0f * random_matrix<float>(2, 4, 2);
  const Attended<Scalar> nothing(shape, 2);
  const Attended<Scalar> all = merge<Scalar>(shape, {nothing, part, nothing});
  EXPECT_TRUE(same_bytes(all.out, part.out));
  EXPECT_TRUE(same_bytes(all.log_sum_exp, part.log_sum_exp));
}

TYPED_TEST(MergedAttentionOf, NothingIsNothing) {
  using Scalar = TypeParam;
  const ModelShape shape{1, 4, 2, 16};
  const Attended<Scalar> nothing(shape, 2);
  const Attended<Scalar> all = merge<Scalar>(shape, {nothing, nothing});
  EXPECT_TRUE(same_bytes(all.out, Matrix<Scalar>(Matrix<Scalar>::Zero(2, 4 * 16))));
  EXPECT_TRUE(same_bytes(all.log_sum_exp, nothing.log_sum_exp));
  Attended<Scalar> unused(shape, 2);
  MergedAttention<Scalar>(shape, 2).write(unused.out);
  EXPECT_TRUE(same_bytes(all.out, unused.out));
}

TEST(MergedAttention, Errors) {
  const ModelShape shape{1, 4, 2, 16};
  EXPECT_ERROR(MergedAttention<float>(shape, 0), "rows", "0", "at least 1");
  EXPECT_ERROR(MergedAttention<float>({1, 3, 2, 16}, 1), "query_heads");
  MergedAttention<float> merged(shape, 2);
  Attended<float> part(shape, 2);
  part.out = random_matrix<float>(2, 4 * 16, 1);
  part.log_sum_exp.setOnes();
  merged.add(part.out, part.log_sum_exp);
  const Matrix<float> wrong = Matrix<float>::Zero(3, 63);
  EXPECT_ERROR(merged.add(wrong.leftCols(1), part.log_sum_exp), "out is [3, 1]", "[2, 64]");
  EXPECT_ERROR(merged.add(wrong.topRows(2), part.log_sum_exp), "out is [2, 63]", "[2, 64]");
  EXPECT_ERROR(merged.add(part.out, wrong.leftCols(4)), "log_sum_exp is [3, 4]", "[2, 4]");
  EXPECT_ERROR(merged.add(part.out, part.log_sum_exp.leftCols(3)), "log_sum_exp", "[2, 4]");
  for (const float impossible : {-minus_infinity, std::numeric_limits<float>::quiet_NaN()}) {
    Matrix<float> log_sum_exp = part.log_sum_exp;
    log_sum_exp(1, 2) = impossible;
    EXPECT_ERROR(merged.add(part.out, log_sum_exp), "log_sum_exp row 1 head 2", "finite");
  }
  Matrix<float> out(2, 63);
  EXPECT_ERROR(merged.write(out), "out is [2, 63]", "[2, 64]");
  Attended<float> all(shape, 2);
  merged.write(all.out, all.log_sum_exp.data());  // no failure left a trace
  EXPECT_TRUE(same_bytes(all.out, part.out));
  EXPECT_TRUE(same_bytes(all.log_sum_exp, part.log_sum_exp));
}

}  // namespace
}  // namespace squat::testing
