// SQuatCache::attend against dense attention in double.
#include <gtest/gtest.h>

#include <squat/squat.hpp>
#include <string>
#include <vector>

#include "dense_attention.hpp"
#include "random_matrix.hpp"
#include "token_history.hpp"

namespace squat::testing {
namespace {

/// How exactly a cache of `Scalar` attends over what keys() and values() say: largest difference
/// relative to the root mean square of the output.
template <class Scalar>
constexpr double tolerance() {
  if (std::is_same_v<Scalar, double>) return 1e-13;
  if (std::is_same_v<Scalar, float>) return 2e-5;
  // Keys, values and output are rounded to these.
  return std::is_same_v<Scalar, Eigen::half> ? 1e-2 : 5e-2;
}

/// The same for log(sum(exp(score))), absolute; what fast arithmetic loses included.
template <class Scalar>
constexpr double log_tolerance() {
  return std::is_same_v<Scalar, double> ? 1e-6 : 2e-2;
}

/// What fast arithmetic may lose, relative to what the codes lose.
constexpr double fast_share = 0.1;

template <class Scalar, int KeyBits, int ValueBits>
struct Kind {
  using Cache = SQuatCache<Scalar, KeyBits, ValueBits>;
  using Element = Scalar;
};

double root_mean_square(const Matrix<double>& x) {
  return x.norm() / std::sqrt(static_cast<double>(x.size()));
}

/// A cache, and the tokens that it was given.
template <class Kind>
class Conversation {
 public:
  using Scalar = typename Kind::Element;

  Conversation(const ModelShape& shape, const Config& config)
      : cache(shape, config), shape_(shape), history_(shape) {}

  /// New tokens after `padding` padded ones, through attention(). Compares what attends with dense
  /// attention over what the cache held at that time.
  void say(Index tokens, Index padding = 0) {
    const Index old = history_.size();
    SCOPED_TRACE(std::to_string(tokens) + " tokens after " + std::to_string(old));
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(tokens), 1);
    std::fill_n(mask.begin(), padding, std::uint8_t{0});
    history_.append(mask,
                    [&](Index columns) { return random_matrix<Scalar>(tokens, columns, ++seed_); });
    const Matrix<Scalar> q = history_.queries.bottomRows(tokens);

    CallOptions options;
    options.mask = history_.newest_mask(tokens);
    Matrix<Scalar> out = Matrix<Scalar>::Constant(tokens, q.cols(), Scalar(7));
    cache.attention(0, Queries(q), Keys(history_.keys.bottomRows(tokens)),
                    Values(history_.values.bottomRows(tokens)), out, options);
    if (old == 0) expect_near(out, dense(q, history_.keys, history_.values), 0);
  }

  /// attend() of the newest `rows` tokens, as the cache is now.
  void expect_attention(Index rows) {
    SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(history_.size()) + " tokens");
    const Matrix<Scalar> q = history_.queries.bottomRows(rows);
    Matrix<double> expected_log;
    const auto expected = dense(q, cache.keys(0), cache.values(0), &expected_log);
    const auto original = dense(q, history_.keys, history_.values);
    Matrix<Scalar> out = Matrix<Scalar>::Constant(rows, q.cols(), Scalar(7));
    Matrix<float> log_sum_exp = Matrix<float>::Constant(rows, shape_.query_heads, 7);
    CallOptions options;
    options.log_sum_exp = log_sum_exp.data();
    cache.attend(0, q, out, options);
    for (Index i = 0; i < log_sum_exp.size(); ++i) {
      if (std::isinf(expected_log.data()[i])) {
        EXPECT_EQ(log_sum_exp.data()[i], expected_log.data()[i]);
      } else {
        EXPECT_NEAR(log_sum_exp.data()[i], expected_log.data()[i], log_tolerance<Scalar>());
      }
    }
    const bool fast = cache.config().arithmetic == Arithmetic::fast;
    expect_near(out, expected, fast ? fast_share * (expected - original).norm() : 0);
  }

  typename Kind::Cache cache;

 private:
  Matrix<double> dense(const Matrix<Scalar>& queries, const Matrix<Scalar>& keys,
                       const Matrix<Scalar>& values, Matrix<double>* log = nullptr) const {
    return dense_attention<Scalar>(shape_, queries, keys, values, history_.valid, log);
  }

  /// Every element within the tolerance, or the whole within `distance`.
  static void expect_near(const Matrix<Scalar>& out, const Matrix<double>& expected,
                          double distance) {
    const Matrix<double> difference = out.template cast<double>() - expected;
    if (difference.norm() <= distance) return;
    EXPECT_LE(difference.cwiseAbs().maxCoeff(), tolerance<Scalar>() * root_mean_square(expected))
        << "and distance " << difference.norm() << " where " << distance << " is allowed";
  }

  ModelShape shape_;
  TokenHistory<Scalar> history_;
  unsigned seed_ = 1;
};

template <class Kind>
class CacheAttention : public ::testing::Test {
 protected:
  static void converse(const ModelShape& shape, const Config& config, Index padding) {
    SCOPED_TRACE("head_dim " + std::to_string(shape.head_dim) + ", " +
                 std::to_string(shape.query_heads) + "/" + std::to_string(shape.kv_heads) +
                 " heads, padding " + std::to_string(padding));
    Conversation<Kind> conversation(shape, config);
    conversation.say(75, padding);  // keys: 64 packed, 11 not; values: 43 and 32
    for (const Index rows : {1, 3, 30, 75}) conversation.expect_attention(rows);
    for (int token = 0; token < 25; ++token) conversation.say(1);
    conversation.expect_attention(1);
    conversation.say(40);
    for (const Index rows : {1, 2, 40}) conversation.expect_attention(rows);
  }
};

// Every scalar, every number of bits for keys and for values.
using Kinds = ::testing::Types<Kind<float, 2, 2>, Kind<double, 3, 4>, Kind<Eigen::half, 4, 8>,
                               Kind<Eigen::bfloat16, 8, 3>>;
TYPED_TEST_SUITE(CacheAttention, Kinds, );

TYPED_TEST(CacheAttention, EqualsDenseAttention) {
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::dequantized})
    for (const Index padding : {0, 5}) {
      Config config;
      config.quant_group_size = 4;
      config.squat_lambda = 0.01;
      config.arithmetic = arithmetic;
      this->converse({1, 4, 2, 64}, config, padding);   // grouped-query
      this->converse({1, 2, 2, 40}, config, padding);   // multi-head; half-used value tiles
      this->converse({1, 3, 1, 8}, config, padding);    // multi-query; the smallest
      this->converse({1, 1, 1, 512}, config, padding);  // the largest
    }
}

TYPED_TEST(CacheAttention, EqualsDenseAttentionWithOtherSettings) {
  Config config;
  config.backend = Backend::hqq;
  config.token_group_size = 64;
  config.residual_length = 64;
  config.scale_bits = 32;
  this->converse({1, 2, 1, 80}, config, 0);
  ModelShape shape{1, 2, 1, 128};
  shape.softmax_scale = 0.02;
  this->converse(shape, config, 1);
}

}  // namespace
}  // namespace squat::testing
