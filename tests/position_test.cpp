// attend() for queries at a position of the caller's.
#include <gtest/gtest.h>

#include "dense_attention.hpp"
#include "expect_error.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

class Position : public ::testing::TestWithParam<Arithmetic> {
 protected:
  static constexpr Index tokens = 100;

  Position() : cache_(shape, config()) {
    update(cache_, given_);
    cache_.flush(0);
  }

  static Config config() {
    Config config = strong_feedback();
    config.arithmetic = GetParam();
    return config;
  }

  static CallOptions at(Index position, Rows* log_sum_exp = nullptr) {
    CallOptions options;
    options.position = position;
    if (log_sum_exp != nullptr) options.log_sum_exp = log_sum_exp->data();
    return options;
  }

  const Tokens given_{tokens, 1};
  Cache cache_;
};

TEST_P(Position, RowsSeeTokensUpToTheirOwn) {
  const Rows keys = cache_.keys(0), values = cache_.values(0);
  for (const Index first : {0, 31, 60, 95})
    for (const Index rows : {1, 5}) {
      const Rows queries = given_.queries.middleRows(first, rows);
      const Index seen = first + rows;
      Matrix<double> expected_log;
      const Matrix<double> expected = dense_attention<float>(
          shape, queries, keys.topRows(seen), values.topRows(seen), {}, &expected_log);
      Rows log_sum_exp(rows, shape.query_heads);
      const Rows out = attend(cache_, queries, at(first, &log_sum_exp));
      EXPECT_LE((out.cast<double>() - expected).norm(), 0.02 * expected.norm());
      EXPECT_LE((log_sum_exp.cast<double>() - expected_log).cwiseAbs().maxCoeff(), 0.05);
    }
}

TEST_P(Position, BehindTheLastTokenAllIsSeen) {
  for (const Index rows : {1, 20}) {
    const Rows queries = given_.queries.middleRows(40, rows);
    const Rows out = attend(cache_, queries, at(tokens + 1000));
    // The newest token sees all, too.
    const Rows last = attend(cache_, queries.bottomRows(1), at(tokens - 1));
    EXPECT_LE((out.bottomRows(1) - last).norm(), 1e-2f * last.norm());
    EXPECT_TRUE(same(out, attend(cache_, queries, at(tokens))));
  }
}

TEST_P(Position, MaskTellsPaddingBehindTheLastToken) {
  const std::vector<std::uint8_t> mask = {0, 1, 0};
  Rows log_sum_exp(3, shape.query_heads);
  CallOptions options = at(tokens - 1, &log_sum_exp);  // the first row's token is in the layer
  options.mask = mask;
  const Rows out = attend(cache_, given_.queries.topRows(3), options);
  EXPECT_GT(out.row(0).norm(), 0);
  EXPECT_GT(out.row(1).norm(), 0);
  EXPECT_EQ(out.row(2).norm(), 0);
  EXPECT_TRUE(log_sum_exp.topRows(2).array().isFinite().all());
  EXPECT_TRUE((log_sum_exp.row(2).array() == -std::numeric_limits<float>::infinity()).all());
}

TEST_P(Position, AnEmptyLayerGivesNothing) {
  const Cache empty(shape, config());
  for (const Index rows : {1, 20}) {
    Rows log_sum_exp(rows, shape.query_heads);
    const Rows out = attend(empty, given_.queries.topRows(rows), at(0, &log_sum_exp));
    EXPECT_EQ(out.norm(), 0);
    EXPECT_TRUE((log_sum_exp.array() == -std::numeric_limits<float>::infinity()).all());
  }
}

TEST_P(Position, Errors) {
  Rows out(1, query_width);
  const Rows query = given_.queries.topRows(1);
  EXPECT_ERROR(cache_.attend(0, query, out, at(-2)), "options.position", "-2", "newest");
  EXPECT_ERROR(cache_.attend(0, query, out, at((Index{1} << 48) + 1)), "options.position");
}

INSTANTIATE_TEST_SUITE_P(Arithmetics, Position,
                         ::testing::Values(Arithmetic::fast, Arithmetic::dequantized),
                         [](const auto& info) {
                           return info.param == Arithmetic::fast ? "fast" : "exact";
                         });

}  // namespace
}  // namespace squat::testing
