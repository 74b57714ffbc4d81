#include "spread.hpp"
#include "tiny_session.hpp"

namespace squat::testing {
namespace {

TinyModel tiny(const char* architecture, std::uint32_t seed = 1) {
  TinyModel model;
  model.architecture = architecture;
  model.seed = seed;
  return model;
}

/// Of all tokens together.
std::vector<float> embedding(const TinyModel& model, const std::vector<llama_token>& tokens) {
  llama_context_params params = exact_context(256);
  params.embeddings = true;
  TinySession session(model, params);
  session.encode(tokens);
  const float* values = llama_get_embeddings_seq(session.context(), 0);
  return {values, values + completed(model).embedding};
}

TEST(TinyBert, GivesAnEmbeddingThatDependsOnTheTokensAndTheirOrder) {
  std::vector<llama_token> tokens = some_tokens(40);
  const std::vector<float> first = embedding(tiny("bert"), tokens);
  EXPECT_TRUE(all_finite(first));
  EXPECT_GT(deviation(first), 0.1f);
  EXPECT_EQ(largest_difference(first, embedding(tiny("bert"), tokens)), 0);
  EXPECT_GT(largest_difference(first, embedding(tiny("bert", 2), tokens)), 0.1f);
  std::swap(tokens[3], tokens[30]);
  EXPECT_GT(largest_difference(first, embedding(tiny("bert"), tokens)), 1e-3f);
}

TEST(TinyBert, HasNoCache) {
  TinySession session(tiny("bert"));
  EXPECT_EQ(llama_get_memory(session.context()), nullptr);
}

class TinyT5 : public ::testing::Test {
 protected:
  /// Logits after tokens of the decoder, when the encoder has seen others.
  static std::vector<std::vector<float>> logits(const std::vector<llama_token>& encoded,
                                                std::uint32_t seed = 1) {
    TinySession session(tiny("t5", seed));
    session.encode(encoded);
    std::vector<llama_token> tokens = some_tokens(40);
    tokens[0] = llama_model_decoder_start_token(session.model());
    return session.logits(tokens);
  }
};

TEST_F(TinyT5, GivesLogitsThatDependOnWhatWasEncoded) {
  std::vector<llama_token> encoded = some_tokens(20);
  const std::vector<float> first = logits(encoded).back();
  EXPECT_TRUE(all_finite(first));
  EXPECT_GT(deviation(first), 1);
  EXPECT_LT(deviation(first), 6);
  EXPECT_GT(largest_difference(first, logits(encoded, 2).back()), 1);
  encoded[10] = 7;
  EXPECT_GT(largest_difference(first, logits(encoded).back()), 0.01f);
}

TEST_F(TinyT5, GivesTheSameLogitsInOneBatchAndTokenByToken) {
  const std::vector<std::vector<float>> together = logits(some_tokens(20));
  TinySession session(tiny("t5"));
  session.encode(some_tokens(20));
  std::vector<llama_token> tokens = some_tokens(40);
  tokens[0] = llama_model_decoder_start_token(session.model());
  for (std::size_t i = 0; i < tokens.size(); ++i)
    ASSERT_LT(largest_difference(together[i], session.logits({tokens[i]})[0]), 1e-2f)
        << "after token " << i;  // GELU is looked up in half precision
}

TEST_F(TinyT5, HasAnEncoderAndADecoder) {
  TinySession session(tiny("t5"));
  EXPECT_TRUE(llama_model_has_encoder(session.model()));
  EXPECT_TRUE(llama_model_has_decoder(session.model()));
}

}  // namespace
}  // namespace squat::testing
