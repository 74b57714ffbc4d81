// Numbers that are not finite are errors, masks hide tokens and codes are rounded in a program that
// is compiled with -ffast-math, too: CMake builds these tests a second time with that.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "dense_attention.hpp"
#include "expect_error.hpp"
#include "saved_cache.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

/// A number of these bits, of which the compiler knows nothing.
template <class Scalar, class Bits>
Scalar from_bits(Bits bits) {
  static_assert(sizeof(Scalar) == sizeof(Bits));
  Scalar x;
  std::memcpy(static_cast<void*>(&x), &bits, sizeof x);
  return x;
}

const float infinity = from_bits<float>(0x7f800000u), nan = from_bits<float>(0x7fc00000u);
const std::vector<float> not_finite = {nan, from_bits<float>(0xff800001u), infinity,
                                       from_bits<float>(0xff800000u)};
const std::vector<double> not_finite_doubles = {from_bits<double>(0x7ff8000000000000u),
                                                from_bits<double>(0xfff0000000000000u),
                                                from_bits<double>(0x7ff0000000000000u)};

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

TEST(FastMath, KnowsWhatIsWithinLimits) {
  for (const float x : not_finite) {
    EXPECT_FALSE(is_finite(x));
    const auto half = from_bits<Eigen::half>(static_cast<std::uint16_t>(0x7c01));
    EXPECT_FALSE(is_finite(half));
    for (std::size_t at = 0; at < 37; ++at) {
      std::vector<float> all(37, -1e18f);
      EXPECT_TRUE(are_within(all.data(), 37, 1e18));
      all[at] = x;
      EXPECT_FALSE(are_within(all.data(), 37, 1e18));
      all[at] = -1.1e18f;
      EXPECT_FALSE(are_within(all.data(), 37, 1e18));
    }
  }
  const float most = std::numeric_limits<float>::max();
  EXPECT_TRUE(is_finite(most));
  EXPECT_FALSE(is_minus_infinity(-most));
  EXPECT_FALSE(is_minus_infinity(not_finite[1]));
  EXPECT_FALSE(is_minus_infinity(infinity));
  EXPECT_TRUE(is_minus_infinity(not_finite[3]));
  const Eigen::bfloat16 below(65280.0f), above(65536.0f);  // 65504 lies between
  EXPECT_TRUE(are_within(&below, 1, 65504));
  EXPECT_FALSE(are_within(&above, 1, 65504));
}

TEST(FastMath, KeysValuesAndQueriesMustBeFinite) {
  const Tokens good(70, 1);
  Cache cache(shape, strong_feedback());
  update(cache, good);
  for (const float x : not_finite)
    for (Rows Tokens::*rows : {&Tokens::keys, &Tokens::values, &Tokens::queries}) {
      Tokens bad = good;
      (bad.*rows)(3, 17) = x;
      EXPECT_ERROR(update(cache, bad), "row 3 column 17", "must be finite");
      if (rows != &Tokens::queries) continue;
      Rows out(70, query_width);
      EXPECT_ERROR(cache.attend(0, bad.queries, out), "queries row 3 column 17", "must be finite");
      QueryMoments moments(shape);
      EXPECT_ERROR(moments.add<float>(0, bad.queries), "queries", "not finite");
    }
}

TEST(FastMath, ShapesAndConfigurationsMustBeFinite) {
  using Spoil = std::function<void(ModelShape&, Config&, double)>;
  const std::vector<Spoil> fields = {
      [](auto&, auto& config, double x) { config.squat_lambda = x; },
      [](auto&, auto& config, double x) { config.query_decay = x; },
      [](auto&, auto& config, double x) { config.key_bits = x; },
      [](auto&, auto& config, double x) {
        config.layer_bits = {{x, 2}};
      },
      [](auto& shape, auto&, double x) { shape.softmax_scale = x; },
      [](auto& shape, auto&, double x) { shape.softcap = x; },
      [](auto& shape, auto&, double x) { shape.sink_logits.assign(4, x); },
      [](auto& shape, auto&, double x) { shape.alibi_slopes.assign(4, x); },
      [](auto& shape, auto&, double x) { shape.rope.base = x; },
      [](auto& shape, auto&, double x) { shape.rope.factors.assign(8, x); },
  };
  for (const double x : not_finite_doubles) {
    for (const Spoil& spoil : fields) {
      ModelShape spoiled = shape;
      Config config = strong_feedback();
      spoil(spoiled, config, x);
      EXPECT_ERROR(Cache(spoiled, config), "it must be");
    }
    EXPECT_ERROR(Config::recommended(x), "mean_bits is", "1.75 to 8");
    EXPECT_ERROR(divide_bits(2.5, {{1, 1}, {1, x}}), "costs of layer 1", "must be finite");
    EXPECT_ERROR(QuerySubspace::fit(SecondMoment(16), 2, x), "lambda is", "must be finite");
  }
}

TEST(FastMath, LogSumExpsMustBeFiniteOrMinusInfinity) {
  MergedAttention<float> merged(shape, 1);
  const Rows out = Rows::Zero(1, query_width);
  for (const float x : {not_finite[0], not_finite[1], not_finite[2]}) {
    Rows log_sum_exp = Rows::Zero(1, 4);
    log_sum_exp(0, 2) = x;
    EXPECT_ERROR(merged.add(out, log_sum_exp), "log_sum_exp row 0 head 2", "must be finite");
  }
}

/// `bytes` with the first `from` in them, which must be there, made `to`, under a right checksum.
template <class Number>
std::string altered(std::string bytes, Number from, Number to) {
  char pattern[sizeof from];
  std::memcpy(pattern, &from, sizeof from);
  const std::size_t at = bytes.find(std::string(pattern, sizeof from));
  EXPECT_NE(at, std::string::npos);
  if (at != std::string::npos) std::memcpy(&bytes[at], &to, sizeof to);
  return repaired(bytes);
}

TEST(FastMath, FilesMustHoldFiniteNumbers) {
  Tokens tokens(80, 1);
  tokens.keys(5, 6) = -200.25f;  // the least of its channel, and so its zero point
  tokens.keys(70, 7) = 5.625f;   // stays as it is
  for (const int scale_bits : {16, 32}) {
    Config config;
    config.squat_lambda = 0;
    config.scale_bits = scale_bits;
    Cache cache(shape, config), other(shape, config);
    update(cache, tokens);
    cache.flush(0);
    const std::string bytes = saved(cache);
    for (const float x : not_finite) {
      EXPECT_ERROR(load(other, altered(bytes, 5.625f, x)), "key or value that is not finite");
      if (scale_bits == 32) {
        EXPECT_ERROR(load(other, altered(bytes, -200.25f, x)), "zero point out of range");
      } else {
        const Eigen::half from(-200.25f);
        EXPECT_ERROR(load(other, altered(bytes, from, Eigen::half(x))), "zero point out of range");
      }
    }
  }
}

TEST(FastMath, MomentsInFilesMustBeFinite) {
  QueryMoments moments(shape);
  Rows queries = Rows::Zero(1, query_width);
  queries(0, 3) = 1.5f;
  moments.add<float>(0, queries);
  std::ostringstream file;
  moments.save(file);
  for (const double x : not_finite_doubles) {
    std::istringstream in(altered(file.str(), 2.25, x));
    EXPECT_ERROR(QueryMoments::load(in, shape), "not finite");
  }
}

/// Attention of the newest tokens, some of which see nothing, against its formula.
TEST(FastMath, MasksHideWhatTheyShould) {
  const Index size = 150, rows = 20;
  const Tokens tokens(size, 1);
  std::vector<std::uint8_t> valid(size, 1), tree(rows * rows, 1), newest(rows, 1);
  for (const std::size_t padding : {0, 1, 2, 40, 77, 149}) valid[padding] = 0;
  newest[rows - 1] = 0;
  std::vector<TokenRange> ranges;
  for (Index row = 0; row < rows; ++row) {
    ranges.push_back({row % 4 == 0 ? 100 : 5 * row, row % 4 == 0 ? 100 : 131 + row});
    for (Index other = 0; other < row; other += 3) tree[at(row * rows + other)] = 0;
  }
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::dequantized})
    for (const Index window : {0, 60}) {
      ModelShape model = shape;
      model.window = window;
      Config config = strong_feedback();
      config.key_bits = config.value_bits = 8;
      config.arithmetic = arithmetic;
      Cache cache(model, config);
      CallOptions update_options;
      update_options.mask = valid;
      update(cache, tokens, update_options);  // all that the window of any row shows is still there
      const Rows keys = cache.keys(0), values = cache.values(0);
      const Rows queries = tokens.queries.bottomRows(rows);
      for (const bool has_ranges : {false, true}) {
        CallOptions options;
        options.mask = newest;
        if (has_ranges) options.visible = ranges;
        if (has_ranges) options.tree = TreeMask(tree.data(), rows, rows);
        Rows out(rows, query_width), log_sum_exp(rows, 4);
        options.log_sum_exp = log_sum_exp.data();
        cache.attend(0, queries, out, options);
        Matrix<double> expected_log;
        const Matrix<double> expected =
            dense_attention<float>(model, queries, keys, values, valid, &expected_log, options);
        EXPECT_TRUE(all_finite(out));
        EXPECT_LE((out.cast<double>() - expected).norm(), 0.02 * expected.norm());
        for (Index i = 0; i < log_sum_exp.size(); ++i) {
          const float& sum = log_sum_exp.data()[i];
          ASSERT_EQ(is_minus_infinity(sum), is_minus_infinity(expected_log.data()[i]));
          if (is_minus_infinity(sum)) continue;
          EXPECT_NEAR(sum, expected_log.data()[i], 0.05);
        }
        MergedAttention<float> merged(model, rows);
        for (int part = 0; part < 2; ++part) merged.add(out, log_sum_exp);
        Rows of_both(rows, query_width);
        merged.write(of_both);
        EXPECT_LE((of_both - out).norm(), 1e-5f * out.norm());
      }
    }
}

/// Codes are the nearest ones: errors of 8 bits are those that rounding leaves.
TEST(FastMath, CodesAreRounded) {
  const Tokens tokens(64, 1);
  Config config;
  config.squat_lambda = 0;
  config.key_bits = config.value_bits = 8;
  Cache cache(shape, config);
  update(cache, tokens);
  cache.flush(0);
  const Rows errors = cache.values(0).topRows(32) - tokens.values.topRows(32);
  EXPECT_LE(std::abs(errors.mean()), 0.1f * std::sqrt(errors.squaredNorm() / (32 * key_width)));
}

}  // namespace
}  // namespace squat::testing
