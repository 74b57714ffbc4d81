// The evaluation against figures of an independent implementation.
#include "evaluation.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

#include "moments.hpp"
#include "random_model.hpp"
#include "test_model.hpp"

namespace squat_llama {
namespace {

TEST(Windows, DoNotOverlapAndBeginWithTheLeadingToken) {
  Protocol protocol;
  protocol.prompt_tokens = 3;
  protocol.decode_tokens = 1;
  protocol.windows = 2;
  const std::vector<int> text = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  using Windows = std::vector<std::vector<int>>;
  EXPECT_EQ(cut_windows(text, protocol, -1), (Windows{{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}}));
  EXPECT_EQ(cut_windows(text, protocol, 99), (Windows{{99, 1, 2, 3, 4}, {99, 5, 6, 7, 8}}));
  try {
    cut_windows({1, 2, 3, 4, 5, 6}, protocol, -1, "page.txt");
    ADD_FAILURE() << "six tokens were enough";
  } catch (const std::runtime_error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("page.txt has 6 tokens; 2 windows need 10"), std::string::npos)
        << message;
  }
}

/// Two texts of two windows for a small model.
class RandomTexts : public testing::Test {
 protected:
  RandomTexts() {
    for (const int factor : {11, 31}) {
      std::vector<Token> text;
      for (int i = 0; i < 100; ++i) text.push_back(factor * i * i % test::kRandomVocabulary);
      texts.push_back(cut_windows(text, protocol, -1));
    }
  }

  static Model make_model() {
    const std::string path =
        testing::TempDir() + "squat_llama_texts_" + std::to_string(getpid()) + ".gguf";
    test::RandomModel random;
    random.architecture = "llama";
    random.head_dim = 32;
    test::write_random_model(random, path);
    Model model(path);
    std::remove(path.c_str());
    return model;
  }

  static Protocol make_protocol() {
    Protocol protocol;
    protocol.prompt_tokens = 40;
    protocol.decode_tokens = 5;
    protocol.windows = 2;
    return protocol;
  }

  CacheResult evaluate_one(const std::string& cache) {
    return evaluate(engine, {parse_cache_spec(cache)}, texts, protocol).front();
  }

  const Model model = make_model();
  Engine engine{model, 1};
  Protocol protocol = make_protocol();
  std::vector<std::vector<Window>> texts;
};

TEST_F(RandomTexts, AreJoined) {
  const std::vector<CacheSpec> caches = {parse_cache_spec("q8_0"), parse_cache_spec("squat:2")};
  double last_done = 0;
  const auto results =
      evaluate(engine, caches, texts, protocol, [&](double done, const std::string&) {
        EXPECT_GT(done, last_done);
        last_done = done;
      });
  EXPECT_DOUBLE_EQ(last_done, 1);
  ASSERT_EQ(results.size(), 2u);
  for (std::size_t cache = 0; cache < 2; ++cache) {
    EXPECT_EQ(results[cache].quality.count(), 20);
    double sum = 0;
    for (std::size_t text = 0; text < 2; ++text) {
      const auto alone = evaluate(engine, {caches[cache]}, {texts[text]}, protocol);
      const double divergence = alone.front().quality.mean_divergence();
      EXPECT_EQ(results[cache].by_text[text].mean_divergence(), divergence);
      EXPECT_GT(divergence, 0);
      sum += divergence;
    }
    EXPECT_DOUBLE_EQ(results[cache].quality.mean_divergence(), sum / 2);
  }
}

TEST_F(RandomTexts, ShareACacheAndItsFirstSubspace) {
  const auto divergences = [&](const std::string& cache, bool one_cache) {
    protocol.one_cache = one_cache;
    const CacheResult result = evaluate_one(cache);
    std::vector<double> by_text;
    for (const Quality& quality : result.by_text) by_text.push_back(quality.mean_divergence());
    return std::make_pair(by_text, result.bytes);
  };
  const std::string cache = "squat:2,quant_group_size=4,squat_lambda=1";
  const auto [own, own_bytes] = divergences(cache, false);
  const auto [shared, shared_bytes] = divergences(cache, true);
  const auto [separate, separate_bytes] = divergences(cache + ",shared_svd=false", true);
  EXPECT_EQ(separate, own);
  EXPECT_NE(shared, own);
  EXPECT_EQ(separate_bytes.elements, 4 * own_bytes.elements);
  EXPECT_EQ(divergences("q4_0", true).first, divergences("q4_0", false).first);
}

TEST_F(RandomTexts, AreReadUnderAMetricOfTheirOwn) {
  const std::string cache = "squat:2,quant_group_size=4,squat_lambda=1";
  try {
    evaluate_one(cache + ",calibrated=true");
    ADD_FAILURE() << "no moments were enough";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("--moments"), std::string::npos) << error.what();
  }
  squat::QueryMoments moments = empty_moments(model.config());
  add_moments(engine, texts[0][0], squat::SubspaceQueries::after_rope, moments);
  protocol.moments = &moments;
  const double fitted = evaluate_one(cache).quality.mean_divergence();
  const double calibrated = evaluate_one(cache + ",calibrated=true").quality.mean_divergence();
  EXPECT_NE(calibrated, fitted);
  protocol.moments = nullptr;
  EXPECT_EQ(evaluate_one(cache).quality.mean_divergence(), fitted);
}

// Min-max at 2 bits, by an implementation of the whole protocol in NumPy. With heads of 64 channels
// the published step of 64 leaves nothing to feed back, so both caches give it.
TEST(Evaluation, ReproducesMinMaxAndThePublishedDefaults) {
  SKIP_WITHOUT_MODEL();
  const Model model(test::model_path(), Weights::single);
  Engine engine(model, 2);
  const Protocol protocol;
  const auto windows = cut_windows(test::tokens(), protocol, -1);
  const auto results = evaluate(engine, {parse_cache_spec("kivi:2"), parse_cache_spec("squat:2")},
                                {{windows.front()}}, protocol);
  for (const CacheResult& result : results) {
    EXPECT_NEAR(result.quality.mean_divergence(), 0.1883, 0.05 * 0.1883) << result.cache;
    EXPECT_NEAR(result.quality.expected_perplexity(), 43.96, 0.005 * 43.96) << result.cache;
    EXPECT_NEAR(result.quality.perplexity(), 54.90, 0.02 * 54.90) << result.cache;
    EXPECT_NEAR(result.quality.top1_agreement(), 0.707, 0.02) << result.cache;
    EXPECT_EQ(result.bytes.bits_per_element(), 3) << result.cache;
    EXPECT_EQ(result.bytes.elements, (1280 + 1280 - 32) * 30 * 3 * 64) << result.cache;
  }
}

}  // namespace
}  // namespace squat_llama
