// The names of caches.
#include "cache_spec.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "../../examples/llama_cpp/layer_costs_file.hpp"
#include "layer_costs.hpp"

namespace squat_llama {
namespace {

std::string error_of(const std::string& spec) {
  try {
    parse_cache_spec(spec);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void expect_error(const std::string& spec, const std::vector<std::string>& parts) {
  const std::string error = error_of(spec);
  EXPECT_NE(error, "") << spec;
  for (const std::string& part : parts) {
    EXPECT_NE(error.find(part), std::string::npos) << spec << ": " << error;
  }
}

TEST(CacheSpec, NamesTypesOfLlamaCpp) {
  EXPECT_EQ(std::get<ggml_type>(parse_cache_spec("q4_0").format), GGML_TYPE_Q4_0);
  EXPECT_EQ(std::get<ggml_type>(parse_cache_spec("iq4_nl").format), GGML_TYPE_IQ4_NL);
}

TEST(CacheSpec, SquatIsThePublishedDefaults) {
  const auto squat = std::get<SquatSpec>(parse_cache_spec("squat:2").format);
  EXPECT_EQ(squat.config.key_bits, 2);
  EXPECT_EQ(squat.config.value_bits, 2);
  EXPECT_EQ(squat.config.quant_group_size, squat::Config{}.quant_group_size);
  EXPECT_EQ(squat.config.squat_lambda, squat::Config{}.squat_lambda);
}

TEST(CacheSpec, SquatTakesFields) {
  const auto squat = std::get<SquatSpec>(
      parse_cache_spec("squat:4/3,backend=hqq,squat_lambda=1e-2,residual_length=64,shared_svd=true")
          .format);
  EXPECT_EQ(squat.config.key_bits, 4);
  EXPECT_EQ(squat.config.value_bits, 3);
  EXPECT_EQ(squat.config.backend, squat::Backend::hqq);
  EXPECT_EQ(squat.config.squat_lambda, 0.01);
  EXPECT_EQ(squat.config.residual_length, 64);
  EXPECT_TRUE(squat.config.shared_svd);
}

TEST(CacheSpec, SquatTakesModes) {
  const auto squat = std::get<SquatSpec>(
      parse_cache_spec("squat+:2.5,subspace_queries=before_rope,subspace_method=power,"
                       "calibrated=true")
          .format);
  EXPECT_TRUE(squat.calibrated);
  EXPECT_EQ(squat.config.subspace_queries, squat::SubspaceQueries::before_rope);
  EXPECT_EQ(squat.config.subspace_method, squat::SubspaceMethod::power);
  const auto plain = std::get<SquatSpec>(parse_cache_spec("squat:2").format);
  EXPECT_FALSE(plain.calibrated);
}

TEST(CacheSpec, SquatTakesKeysPerToken) {
  const auto squat = std::get<SquatSpec>(
      parse_cache_spec("squat:2,key_scales=per_token,key_group_size=64,rotate_keys=true,"
                       "residual_length=0")
          .format);
  EXPECT_EQ(squat.config.key_scales, squat::KeyScales::per_token);
  EXPECT_EQ(squat.config.key_group_size, 64);
  EXPECT_TRUE(squat.config.rotate_keys);
  EXPECT_EQ(squat.config.residual_length, 0);
}

TEST(CacheSpec, SquatPlusIsRecommended) {
  const auto squat = std::get<SquatSpec>(
      parse_cache_spec("squat+:3.25,full_precision_tokens=4,backend=unbiased,value_grid=min_max")
          .format);
  EXPECT_EQ(squat.config.key_bits, squat::Config::recommended(3.25).key_bits);
  EXPECT_EQ(squat.config.value_bits, 3);
  EXPECT_TRUE(squat.config.adaptive_bits);
  EXPECT_EQ(squat.config.full_precision_tokens, 4);
  EXPECT_EQ(squat.config.value_grid, squat::ValueGrid::min_max);
}

TEST(CacheSpec, SquatPlusDividesBytesForAContext) {
  const auto squat = std::get<SquatSpec>(
      parse_cache_spec("squat+:2.5,full_precision_tokens=4,context_tokens=16384").format);
  const squat::Config expected = squat::Config::recommended(2.5, 16384);
  EXPECT_EQ(squat.config.residual_length, expected.residual_length);
  EXPECT_EQ(squat.config.key_bits, expected.key_bits);
  EXPECT_EQ(squat.config.full_precision_tokens, 4);
  expect_error("squat:2,context_tokens=4096", {"context_tokens", "squat+:MEANBITS"});
  expect_error("squat+:2.5,context_tokens=-1", {"context_tokens is -1"});
}

TEST(CacheSpec, KiviHasNoFeedback) {
  const auto kivi = std::get<SquatSpec>(parse_cache_spec("kivi:3").format);
  EXPECT_EQ(kivi.config.key_bits, 3);
  EXPECT_EQ(kivi.config.squat_lambda, 0);
  EXPECT_FALSE(kivi.config.shared_svd);  // windows do not share, unless asked to
}

TEST(CacheSpec, OscarHasTwoBits) {
  EXPECT_TRUE(std::holds_alternative<OscarSpec>(parse_cache_spec("oscar:2").format));
  expect_error("oscar:3", {"'3'", "oscar:3", "known are 2"});
  expect_error("oscar", {"bits are ''", "known are 2"});
}

TEST(CacheSpec, LayerCostsDivideTheBits) {
  const std::string path = ::testing::TempDir() + "costs.json";
  write_layer_costs(path, {{1, 0.5}, {0.001, 0.25}, {0, 2}});
  const auto costs = squat_preload::read_layer_costs(path);
  ASSERT_EQ(costs.size(), 3u);
  EXPECT_EQ(costs[1].keys, 0.001);
  EXPECT_EQ(costs[2].values, 2);
  const auto spec = std::get<SquatSpec>(parse_cache_spec("squat+:2.5,layer_costs=" + path).format);
  ASSERT_EQ(spec.config.layer_bits.size(), 3u);
  EXPECT_GT(spec.config.layer_bits[0].keys, spec.config.layer_bits[1].keys);

  expect_error("squat:2,layer_costs=" + path, {"layer_costs", "squat+:MEANBITS"});
  expect_error("squat+:2.5,layer_costs=", {"layer_costs", "FILE"});
  expect_error("squat+:2.5,layer_costs=" + path + ".none", {"cannot open", "costs.json.none"});
  for (const char* wrong : {"no JSON", "{}", R"({"layer_costs": [{"keys": 1}]})",
                            R"({"layer_costs": [{"keys": "x", "values": 1}]})"}) {
    std::ofstream(path) << wrong;
    expect_error("squat+:2.5,layer_costs=" + path, {"costs.json does not hold layer costs"});
  }
}

TEST(CacheSpec, ErrorsListWhatIsKnown) {
  expect_error("q6_0",
               {"q6_0", "f16", "iq4_nl", "turbo", "oscar:2", "kivi", "squat", "squat_lambda"});
  expect_error("squat:5", {"'5'", "2, 3, 4, 8"});
  expect_error("squat", {"squat:BITS"});
  expect_error("squat+:many", {"'many'", "squat+:2.5"});
  expect_error("squat+:1", {"mean_bits is 1", "1.75 to 8"});
  expect_error("squat:2,key_bits=2.5", {"key_bits", "2.5", "whole"});
  expect_error("turbo:9", {"'9'", "2, 3, 4"});
  expect_error("squat:2,lambda=1", {"'lambda'", "squat_lambda", "residual_length"});
  expect_error("squat:2,backend=gptq", {"'gptq'", "quanto|hqq|unbiased"});
  expect_error("squat:2,squat_lambda=much", {"'much'", "NUMBER"});
  expect_error("squat:2,calibrated=maybe", {"'maybe'", "true|false"});
  expect_error("squat:2,subspace_method=qr", {"'qr'", "eigen|power"});
  expect_error("squat:2,subspace_queries=all", {"'all'", "after_rope|before_rope"});
  expect_error("squat:2,quant_group_size=1.5", {"'1.5'", "INTEGER"});
  expect_error("squat:2,residual_length", {"FIELD=VALUE"});
  expect_error("squat:2,residual_length=33", {"residual_length", "33"});
  expect_error("squat:2,key_scales=per_head", {"'per_head'", "per_channel|per_token"});
}

}  // namespace
}  // namespace squat_llama
