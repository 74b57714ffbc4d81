#include "tiny_model.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "spread.hpp"
#include "tiny_session.hpp"

namespace squat::testing {
namespace {

using LogitRows = std::vector<std::vector<float>>;

std::string bytes(const TinyModel& model) {
  const TemporaryFile temporary;
  write_tiny_model(model, temporary.path());
  std::ifstream file(temporary.path(), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// How many tokens the queries of each layer attend to: the exponential of the entropy.
class AttendedTokens {
 public:
  static bool observe(ggml_tensor* node, bool ask, void* self) {
    const bool attention = std::string(node->name).rfind("kq_soft_max", 0) == 0;
    if (ask || !attention) return attention;
    static_cast<AttendedTokens*>(self)->add(*node);
    return true;
  }

  double mean() const { return sum_ / rows_; }
  bool any() const { return rows_ > 0; }

 private:
  void add(const ggml_tensor& weights) {  // ne: tokens, queries, heads
    const auto* data = static_cast<const char*>(weights.data);
    for (std::int64_t head = 0; head < weights.ne[2]; ++head) {
      const std::size_t last = static_cast<std::size_t>(weights.ne[1] - 1) * weights.nb[1];
      const auto* row = reinterpret_cast<const float*>(
          data + last + static_cast<std::size_t>(head) * weights.nb[2]);
      double total = 0, entropy = 0;
      for (std::int64_t i = 0; i < weights.ne[0]; ++i) total += row[i];
      for (std::int64_t i = 0; i < weights.ne[0]; ++i)
        if (row[i] > 0) entropy -= row[i] / total * std::log(row[i] / total);
      sum_ += std::exp(entropy);
      ++rows_;
    }
  }

  double sum_ = 0;
  int rows_ = 0;
};

std::string name_of(const ::testing::TestParamInfo<TinyModel>& info) {
  std::string name = info.param.architecture + "_" + std::to_string(info.param.head_dim);
  std::replace_if(
      name.begin(), name.end(), [](char letter) { return letter == '-'; }, '_');
  return name + "_" + std::to_string(info.index);
}

class TinyDecoder : public ::testing::TestWithParam<TinyModel> {};

TEST_P(TinyDecoder, GivesTheSameLogitsInOneBatchAndTokenByToken) {
  // GELU is looked up in half precision.
  const bool gelu =
      GetParam().architecture.rfind("gemma", 0) == 0 || GetParam().architecture == "bloom";
  const float tolerance = gelu ? 1e-2f : 1e-3f;
  const std::vector<llama_token> tokens = some_tokens(40);
  const LogitRows together = TinySession(GetParam()).logits(tokens);
  TinySession session(GetParam());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const LogitRows alone = session.logits({tokens[i]});
    ASSERT_LT(largest_difference(together[i], alone[0]), tolerance) << "after token " << i;
  }
}

TEST_P(TinyDecoder, GivesLogitsWithASpreadOfAFewUnits) {
  for (const std::vector<float>& row : TinySession(GetParam()).logits(some_tokens(40))) {
    ASSERT_TRUE(all_finite(row));
    ASSERT_GT(deviation(row), 1);
    ASSERT_LT(deviation(row), 6);
  }
}

TEST_P(TinyDecoder, AttendsToSomeOfTheTokens) {
  AttendedTokens attended;
  llama_context_params params = exact_context(256);
  params.cb_eval = AttendedTokens::observe;
  params.cb_eval_user_data = &attended;
  TinySession(GetParam(), params).logits(some_tokens(100));
  ASSERT_TRUE(attended.any());
  EXPECT_GT(attended.mean(), 3);
  // Llama 4 normalizes queries and keys that turn: scores have a deviation of 1.
  EXPECT_LT(attended.mean(), GetParam().architecture == "llama4" ? 65 : 50);
}

TEST_P(TinyDecoder, RemembersItsFirstToken) {
  std::vector<llama_token> tokens = some_tokens(40);
  const std::vector<float> logits = TinySession(GetParam()).logits(tokens).back();
  tokens[0] = 7;
  EXPECT_GT(largest_difference(logits, TinySession(GetParam()).logits(tokens).back()), 0.01f);
}

TEST_P(TinyDecoder, DependsOnTheSeedAlone) {
  TinyModel other = GetParam();
  other.seed += 1;
  const std::string file = bytes(GetParam());
  EXPECT_TRUE(file == bytes(GetParam()));
  EXPECT_FALSE(file == bytes(other));
  EXPECT_GT(largest_difference(TinySession(GetParam()).logits(some_tokens(1))[0],
                               TinySession(other).logits(some_tokens(1))[0]),
            1);
}

/// All architectures as they are, and variants of the first ones.
std::vector<TinyModel> decoders() {
  std::vector<TinyModel> models = tiny_models(tiny_decoders());
  for (const char* architecture : {"llama", "qwen2", "qwen3", "phi3", "gemma3"}) {
    for (const int head_dim : {128, 256}) {
      TinyModel model;
      model.architecture = architecture;
      model.head_dim = head_dim;
      model.heads = 2;
      model.kv_heads = head_dim == 128 ? 2 : 1;
      models.push_back(model);
    }
  }
  for (const TinyModel& variant : tiny_rotary_variants()) models.push_back(variant);
  return models;
}

INSTANTIATE_TEST_SUITE_P(All, TinyDecoder, ::testing::ValuesIn(decoders()), name_of);

/// The logits after 100 tokens, of which the first is `first`.
std::vector<float> logits_after(const TinyModel& model, llama_token first) {
  std::vector<llama_token> tokens = some_tokens(100);
  tokens[0] = first;
  return TinySession(model).logits(tokens).back();
}

TEST(TinyModel, HasLayersWithAWindow) {
  TinyModel narrow;
  narrow.architecture = "gemma3";
  narrow.layers = 1;  // which has a window
  TinyModel wide = narrow;
  wide.window = 4096;
  EXPECT_EQ(largest_difference(logits_after(narrow, 3), logits_after(narrow, 7)), 0);
  EXPECT_GT(largest_difference(logits_after(wide, 3), logits_after(wide, 7)), 1e-3f);

  narrow.layers = narrow.window_period = 2;  // the second has none
  EXPECT_GT(largest_difference(logits_after(narrow, 3), logits_after(narrow, 7)), 1e-3f);
}

TEST(TinyModel, DependsOnTheWindow) {
  TinyModel narrow;
  narrow.architecture = "gemma3";
  TinyModel wide = narrow;
  wide.window = 4096;
  const std::vector<llama_token> tokens = some_tokens(100);
  const LogitRows near = TinySession(narrow).logits(tokens), far = TinySession(wide).logits(tokens);
  for (std::size_t i = 0; i < 32; ++i)
    EXPECT_LT(largest_difference(near[i], far[i]), 1e-3f) << "after token " << i;
  EXPECT_GT(largest_difference(near.back(), far.back()), 0.1f);
}

TEST(TinyModel, HasOtherRotaryFactorsInALongContext) {
  TinyModel model;
  model.architecture = "phi3";
  model.context_length = 512;  // of which half is long
  const std::vector<llama_token> tokens = some_tokens(40);
  const LogitRows short_context = TinySession(model, 256).logits(tokens);
  const LogitRows long_context = TinySession(model, 512).logits(tokens);
  EXPECT_LT(largest_difference(short_context[0], long_context[0]), 1e-3f);
  EXPECT_GT(largest_difference(short_context.back(), long_context.back()), 0.1f);
}

TEST(TinyModel, HasAVocabularyThatSpellsAnyText) {
  TinySession session{TinyModel{}};
  const llama_vocab* vocab = llama_model_get_vocab(session.model());
  const std::string text = "the tree's 3 \xc3\xa9toiles";
  std::vector<llama_token> tokens(64);
  tokens.resize(static_cast<std::size_t>(
      llama_tokenize(vocab, text.data(), static_cast<int>(text.size()), tokens.data(), 64,
                     /*add_special=*/true, /*parse_special=*/false)));
  EXPECT_EQ(tokens[0], llama_vocab_bos(vocab));
  EXPECT_LT(tokens.size(), text.size()) << "has no pairs";
  char spelled[64];
  const int length =
      llama_detokenize(vocab, tokens.data(), static_cast<int>(tokens.size()), spelled, 64,
                       /*remove_special=*/true, /*unparse_special=*/false);
  // SentencePiece begins with a space.
  EXPECT_EQ(std::string(spelled, static_cast<std::size_t>(length)), " " + text);
}

std::string refusal(const TinyModel& model) {
  try {
    completed(model);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(TinyModel, RefusesWhatAnArchitectureDoesNotAllow) {
  TinyModel model;
  model.architecture = "lama";
  EXPECT_NE(refusal(model).find("one of bert bloom"), std::string::npos) << refusal(model);
  model.architecture = "qwen2";
  model.embedding = 192;
  EXPECT_EQ(refusal(model), "embedding must be heads * head_dim, 256, for qwen2, not 192");
  model.embedding = 0;
  model.kv_heads = 3;
  EXPECT_EQ(refusal(model), "kv_heads must be a divisor of heads, 4, not 3");
  model.kv_heads = 2;
  model.rotary_dim = 32;
  EXPECT_EQ(refusal(model), "rotary_dim must be head_dim, 64, but for phi3, not 32");
  model.rotary_dim = 0;
  model.rotary_scaling = "longrope";
  EXPECT_EQ(refusal(model), "rotary_scaling must be none, linear or yarn, not longrope");
}

}  // namespace
}  // namespace squat::testing
