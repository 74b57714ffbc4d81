// Config and ModelShape: published defaults, and what a cache refuses.
#include <gtest/gtest.h>

#include <limits>
#include <squat/detail/config_checks.hpp>

#include "expect_error.hpp"

namespace squat::testing {

using namespace detail;
namespace {

TEST(Config, DefaultsAreThePublishedOnes) {
  const Config config;
  EXPECT_EQ(config.backend, Backend::quanto);
  EXPECT_EQ(config.quant_group_size, 64);
  EXPECT_EQ(config.residual_length, 32);
  EXPECT_EQ(config.squat_lambda, 0.001);
  EXPECT_EQ(config.subspace_dim, 10);
  EXPECT_TRUE(config.shared_svd);
  EXPECT_EQ(config.token_group_size, 32);
  EXPECT_EQ(config.key_scales, KeyScales::per_channel);
  EXPECT_FALSE(config.rotate_keys);
  check(config);
}

/// The check of a Config that differs from the defaults in one field.
template <class Field, class Value>
void check_with(Field Config::*field, Value value) {
  Config config;
  config.*field = static_cast<Field>(value);
  check(config);
}

TEST(Config, RefusesWhatIsNotAllowed) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_ERROR(check_with(&Config::backend, 3), "config.backend is 3",
               "quanto (0), hqq (1) or unbiased (2)");
  EXPECT_ERROR(check_with(&Config::quant_group_size, 0), "config.quant_group_size is 0",
               "at least 1");
  EXPECT_ERROR(check_with(&Config::residual_length, 0), "config.residual_length is 0",
               "positive multiple of token_group_size (32)");
  EXPECT_ERROR(check_with(&Config::residual_length, -32), "config.residual_length is -32",
               "positive multiple");
  EXPECT_ERROR(check_with(&Config::residual_length, 48), "config.residual_length is 48",
               "positive multiple");
  EXPECT_ERROR(check_with(&Config::squat_lambda, -0.001), "config.squat_lambda is -0.001",
               "finite and not negative");
  EXPECT_ERROR(check_with(&Config::squat_lambda, infinity), "config.squat_lambda is inf", "finite");
  EXPECT_ERROR(check_with(&Config::subspace_dim, 0), "config.subspace_dim is 0", "at least 1");
  for (const Index size : {0, 16, 48, 256})
    EXPECT_ERROR(check_with(&Config::token_group_size, size), "config.token_group_size is",
                 std::to_string(size).c_str(), "32, 64 or 128");
  EXPECT_ERROR(check_with(&Config::token_group_size, 64), "config.residual_length is 32",
               "token_group_size (64)");
  EXPECT_ERROR(check_with(&Config::scale_bits, 12), "config.scale_bits is 12", "8, 16 or 32");
  EXPECT_ERROR(check_with(&Config::subspace_queries, 2), "config.subspace_queries is 2",
               "after_rope (0) or before_rope (1)");
  EXPECT_ERROR(check_with(&Config::subspace_method, 2), "config.subspace_method is 2",
               "eigen (0) or power (1)");
  EXPECT_ERROR(check_with(&Config::arithmetic, 7), "config.arithmetic is 7", "0", "1");
}

TEST(Config, RefusesWhatScalesPerTokenOrPerChannelCannotDo) {
  EXPECT_ERROR(check_with(&Config::key_scales, 2), "config.key_scales is 2",
               "per_channel (0) or per_token (1)");
  EXPECT_ERROR(check_with(&Config::residual_length, 0), "config.residual_length is 0",
               "share a channel's scale", "per_token needs no residual");
  EXPECT_ERROR(check_with(&Config::rotate_keys, true), "config.rotate_keys is true", "per_token");
  EXPECT_ERROR(check_with(&Config::key_group_size, 64), "config.key_group_size is 64", "per_token");
  Config config;
  config.key_scales = KeyScales::per_token;
  for (const Index length : {0, 1, 33, 1000}) {
    config.residual_length = length;
    check(config);
  }
  config.residual_length = -1;
  EXPECT_ERROR(check(config), "config.residual_length is -1", "0 or more");
  config.residual_length = 0;
  for (const Index size : {0, 32, 64, 128, 256, 512}) {
    config.key_group_size = size;
    check(config);
  }
  config.key_group_size = 48;
  EXPECT_ERROR(check(config), "config.key_group_size is 48", "32, 64, 128, 256 or 512");
  config.key_group_size = 0;
  config.rolling_residual = true;
  EXPECT_ERROR(check(config), "config.rolling_residual is true", "per_token", "one by one");
  config.rolling_residual = false;
  config.adaptive_bits = true;
  EXPECT_ERROR(check(config), "config.adaptive_bits is true", "per_token", "share a scale");
}

TEST(Config, TakesWhatIsAllowed) {
  check_with(&Config::backend, Backend::hqq);
  check_with(&Config::quant_group_size, 1);
  check_with(&Config::quant_group_size, 100000);
  check_with(&Config::residual_length, 320);
  check_with(&Config::squat_lambda, 0);
  check_with(&Config::subspace_dim, 100000);
  check_with(&Config::scale_bits, 32);
  for (const Index size : {32, 64, 128}) {
    Config config;
    config.token_group_size = size;
    config.residual_length = 2 * size;
    check(config);
  }
}

TEST(ModelShape, RefusesWhatIsNotAllowed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_ERROR(check(ModelShape{}), "shape.layers is 0", "at least 1");
  EXPECT_ERROR(check(ModelShape{-3, 1, 1, 8}), "shape.layers is -3", "at least 1");
  EXPECT_ERROR(check(ModelShape{1, 1, 0, 8}), "shape.kv_heads is 0", "at least 1");
  EXPECT_ERROR(check(ModelShape{1, 0, 2, 8}), "shape.query_heads is 0", "multiple of the 2");
  EXPECT_ERROR(check(ModelShape{1, 3, 2, 8}), "shape.query_heads is 3", "multiple of the 2");
  for (const Index head_dim : {0, -8, 577})
    EXPECT_ERROR(check(ModelShape{1, 1, 1, head_dim}), "shape.head_dim is",
                 std::to_string(head_dim).c_str(), "must be 1 to 576");
  const auto check_with = [](auto change) {
    ModelShape shape{1, 2, 1, 8};
    change(shape);
    check(shape);
  };
  for (const Index value_dim : {-8, 513})
    EXPECT_ERROR(check_with([&](auto& s) { s.value_dim = value_dim; }), "shape.value_dim is",
                 std::to_string(value_dim).c_str(), "must be 1 to 512");
  EXPECT_ERROR(check_with([](auto& s) { s.head_dim = 576; }), "shape.value_dim is 0",
               "head_dim (576)");
  EXPECT_ERROR(check_with([](auto& s) { s.softmax_scale = -0.5; }), "shape.softmax_scale is -0.5",
               "positive");
  EXPECT_ERROR(check_with([&](auto& s) { s.softmax_scale = nan; }), "shape.softmax_scale is", "nan",
               "positive");
  EXPECT_ERROR(check_with([](auto& s) { s.chunk = -1; }), "shape.chunk is -1", "must be 1 to");
  EXPECT_ERROR(check_with([](auto& s) { s.chunk = s.window = 3; }), "shape.window is 3",
               "shape.chunk 3");
  EXPECT_ERROR(check_with([](auto& s) { s.sink_tokens = 1025; }), "shape.sink_tokens is 1025",
               "0 to 1024");
  EXPECT_ERROR(check_with([](auto& s) { s.softcap = -1; }), "shape.softcap is -1", "positive");
  EXPECT_ERROR(check_with([](auto& s) { s.sink_logits = {1}; }), "shape.sink_logits has 1 entries",
               "2 query heads");
  EXPECT_ERROR(check_with([&](auto& s) {
                 s.alibi_slopes = {1, nan};
               }),
               "shape.alibi_slopes holds", "nan", "finite");
}

TEST(ModelShape, TakesEveryMultipleOf8) {
  for (Index head_dim = 8; head_dim <= 512; head_dim += 8) check(ModelShape{1, 1, 1, head_dim});
}

}  // namespace
}  // namespace squat::testing
