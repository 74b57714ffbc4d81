// Tiny models have the attention that their architectures are known for.
#include <algorithm>
#include <cstring>
#include <set>

#include "tiny_session.hpp"

namespace squat::testing {
namespace {

/// What llama.cpp computes for a token.
struct Attention {
  explicit Attention(const TinyModel& model) {
    llama_context_params params = exact_context(256);
    params.cb_eval = [](ggml_tensor* node, bool ask, void* self) {
      if (ask) static_cast<Attention*>(self)->add(*node);
      return false;
    };
    params.cb_eval_user_data = this;
    TinySession session(model, params);
    session.logits({7});
    hybrid = llama_model_is_hybrid(session.model());
  }

  std::set<std::int64_t> key_widths, value_widths;  ///< of all layers
  std::set<std::int64_t> kv_heads;
  std::set<int> rotary_modes;  ///< ggml's
  int layers = 0;
  int state_layers = 0;
  int frequency_factors = 0;  ///< rotary embeddings that have them
  bool capped = false, sinks = false, alibi = false, experts = false, hybrid = false;

 private:
  void add(const ggml_tensor& node) {
    const std::string name = node.name;
    const auto named = [&](const char* begin) { return name.rfind(begin, 0) == 0; };
    if (node.op == GGML_OP_MUL_MAT && named("kq-")) {
      ++layers;
      key_widths.insert(node.src[0]->ne[0]);
      kv_heads.insert(node.src[0]->ne[2]);
    }
    if (node.op == GGML_OP_MUL_MAT && named("kqv-")) value_widths.insert(node.src[0]->ne[1]);
    if (node.op == GGML_OP_SOFT_MAX && named("kq_soft_max")) {
      float max_bias = 0;
      std::memcpy(&max_bias, &node.op_params[1], sizeof max_bias);
      alibi = alibi || max_bias > 0;
      sinks = sinks || node.src[2] != nullptr;
    }
    if (node.op == GGML_OP_ROPE) {
      rotary_modes.insert(node.op_params[2]);
      frequency_factors += node.src[2] != nullptr;
    }
    capped = capped || named("kq_tanh");
    experts = experts || node.op == GGML_OP_MUL_MAT_ID;
    state_layers += node.op == GGML_OP_SSM_SCAN;
  }
};

Attention attention(const char* architecture) {
  TinyModel model;
  model.architecture = architecture;
  return Attention(model);
}

using Set = std::set<std::int64_t>;

class PlainAttention : public ::testing::TestWithParam<const char*> {};

TEST_P(PlainAttention, HasNothingElse) {
  const Attention found = attention(GetParam());
  EXPECT_EQ(found.layers, std::string(GetParam()) == "gemma3" ? 7 : 2);
  EXPECT_EQ(found.key_widths, Set{64});
  EXPECT_EQ(found.value_widths, Set{64});
  EXPECT_EQ(found.kv_heads, Set{2});
  EXPECT_EQ(found.rotary_modes.size(), 1u);
  EXPECT_EQ(found.rotary_modes.count(GGML_ROPE_TYPE_MROPE), 0u);
  EXPECT_FALSE(found.capped || found.sinks || found.alibi || found.experts || found.hybrid);
  EXPECT_EQ(found.state_layers, 0);
}

INSTANTIATE_TEST_SUITE_P(Of, PlainAttention,
                         ::testing::Values("llama", "qwen2", "qwen3", "phi3", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

TEST(TinyAttention, HasFrequencyFactorsWhereAsked) {
  EXPECT_EQ(attention("llama").frequency_factors, 0);
  TinyModel model;
  model.rotary_factors = true;
  EXPECT_EQ(Attention(model).frequency_factors, 4);  // queries and keys of two layers
  EXPECT_EQ(attention("phi3").frequency_factors, 4);
}

TEST(TinyAttention, HasTheAskedSizes) {
  TinyModel model;
  model.layers = 3;
  model.heads = 6;
  model.kv_heads = 3;
  model.head_dim = 128;
  const Attention found(model);
  EXPECT_EQ(found.layers, 3);
  EXPECT_EQ(found.kv_heads, Set{3});
  EXPECT_EQ(found.key_widths, Set{128});
}

TEST(TinyAttention, HasSeveralPositionsInQwen2Vl) {
  EXPECT_EQ(attention("qwen2vl").rotary_modes, std::set<int>{GGML_ROPE_TYPE_MROPE});
}

TEST(TinyAttention, IsCappedInGemma2) { EXPECT_TRUE(attention("gemma2").capped); }

TEST(TinyAttention, HasSinksAndExpertsInGptOss) {
  const Attention found = attention("gpt-oss");
  EXPECT_TRUE(found.sinks);
  EXPECT_TRUE(found.experts);
}

TEST(TinyAttention, IsLatentInDeepseek2) {
  TinyModel model;
  model.architecture = "deepseek2";
  const Attention latent(model);
  EXPECT_EQ(latent.kv_heads, Set{1});
  EXPECT_EQ(latent.key_widths, Set{128});
  EXPECT_EQ(latent.value_widths, Set{96});
  model.latent_cache = false;
  const Attention separate(model);
  EXPECT_EQ(separate.kv_heads, Set{4});
  EXPECT_EQ(separate.key_widths, Set{96});
  EXPECT_EQ(separate.value_widths, Set{64});
}

TEST(TinyAttention, HasAlibiInBloom) {
  const Attention found = attention("bloom");
  EXPECT_TRUE(found.alibi);
  EXPECT_TRUE(found.rotary_modes.empty());
}

TEST(TinyAttention, IsInEveryOtherLayerOfJamba) {
  const Attention found = attention("jamba");
  EXPECT_TRUE(found.hybrid);
  EXPECT_EQ(found.layers, 1);
  EXPECT_EQ(found.state_layers, 1);
}

TEST(TinyAttention, IsInEveryOtherLayerOfLfm2) {
  const Attention found = attention("lfm2");
  EXPECT_TRUE(found.hybrid);
  EXPECT_EQ(found.layers, 2);
}

}  // namespace
}  // namespace squat::testing
