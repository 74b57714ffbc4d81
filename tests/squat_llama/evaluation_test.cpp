// The evaluation against figures of an independent implementation.
#include "evaluation.hpp"

#include "layer_costs.hpp"
#include "moments.hpp"
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
class TinyTexts : public testing::Test {
 protected:
  TinyTexts() {
    for (const int factor : {11, 31}) {
      std::vector<Token> text;
      for (int i = 0; i < 200; ++i) text.push_back(3 + factor * i * i % 317);
      texts.push_back(cut_windows(text, protocol, -1));
    }
  }

  static Protocol make_protocol() {
    Protocol protocol;
    protocol.prompt_tokens = 80;
    protocol.decode_tokens = 5;
    protocol.windows = 2;
    return protocol;
  }

  CacheResult evaluate_one(const std::string& cache) {
    return evaluate(model, {parse_cache_spec(cache)}, texts, protocol).front();
  }
  double divergence(const std::string& cache) {
    return evaluate_one(cache).quality.mean_divergence();
  }

  const Model model = test::tiny();
  Protocol protocol = make_protocol();
  std::vector<std::vector<Window>> texts;
};

TEST_F(TinyTexts, AreJoined) {
  const std::vector<CacheSpec> caches = {parse_cache_spec("q8_0"), parse_cache_spec("squat:2")};
  double last_done = 0;
  const auto results =
      evaluate(model, caches, texts, protocol, [&](double done, const std::string&) {
        EXPECT_GT(done, last_done);
        last_done = done;
      });
  EXPECT_NEAR(last_done, 1, 1e-12);
  ASSERT_EQ(results.size(), 2u);
  for (std::size_t cache = 0; cache < 2; ++cache) {
    EXPECT_EQ(results[cache].quality.count(), 20);
    double sum = 0;
    for (std::size_t text = 0; text < 2; ++text) {
      const auto alone = evaluate(model, {caches[cache]}, {texts[text]}, protocol);
      const double divergence = alone.front().quality.mean_divergence();
      EXPECT_NEAR(results[cache].by_text[text].mean_divergence(), divergence, 1e-3 * divergence);
      EXPECT_GT(divergence, 0);
      sum += divergence;
    }
    EXPECT_NEAR(results[cache].quality.mean_divergence(), sum / 2, 1e-3 * sum);
  }
}

TEST_F(TinyTexts, DivergeLessWithMoreBits) {
  EXPECT_EQ(divergence("f32"), 0);
  double last = 0;
  for (const char* cache : {"f16", "q8_0", "q4_0"}) {
    const double next = divergence(cache);
    EXPECT_GT(next, 10 * last) << cache;
    last = next;
  }
  EXPECT_LT(divergence("turbo:4"), 0.5 * divergence("turbo:2"));
  EXPECT_LT(divergence("squat+:8"), 0.1 * divergence("squat+:2.5"));
  EXPECT_EQ(divergence("kivi:2"), divergence("squat:2"));  // nothing to feed back in heads of 64
}

TEST_F(TinyTexts, AreCountedInBytes) {
  // 85 tokens in cells for 256, of 2 layers of keys and values in 2 heads of 64.
  const double width = 2 * 2 * 2 * 64;
  const CacheBytes half = evaluate_one("f16").bytes, turbo = evaluate_one("turbo:3").bytes;
  EXPECT_EQ(half.elements, 85 * width);
  EXPECT_EQ(half.total, 256 * width * 2);
  EXPECT_EQ(half.bits_per_element(), 16);
  EXPECT_EQ(evaluate_one("q4_0").bytes.bits_per_element(), 4.5);
  EXPECT_EQ(turbo.elements, 85 * width);
  EXPECT_EQ(turbo.bits_per_element(), 3.25);
  EXPECT_GE(turbo.total, 256 * width * 3.25 / 8);
  // Keys in blocks of 32 tokens, and values but for the newest 32.
  const CacheBytes squat = evaluate_one("squat:2").bytes;
  EXPECT_EQ(squat.elements, (64 + 53) * width / 2);
  EXPECT_EQ(squat.bits_per_element(), 3);
  EXPECT_GT(squat.total, squat.quantized);
}

TEST_F(TinyTexts, AreWholeOnOscarUpToItsWindows) {
  std::vector<Token> text;
  for (int i = 0; i < 900; ++i) text.push_back(3 + 7 * i * i % 317);
  protocol.calibration = {{text.begin(), text.begin() + 100}};
  const auto of_prompt = [&](int tokens) {
    protocol.prompt_tokens = tokens;
    texts = {cut_windows(text, protocol, -1)};
    return evaluate_one("oscar:2");
  };
  const CacheResult whole = of_prompt(315), rounded = of_prompt(400);
  const double width = 2 * 2 * 2 * 64;
  EXPECT_EQ(whole.bytes.elements, 0);
  EXPECT_EQ(rounded.bytes.elements, (405 - 64 - 256) * width);
  EXPECT_EQ(rounded.bytes.bits_per_element(), 2.5);
  EXPECT_EQ(rounded.bytes.total, width * ((64 + 256) * 2 + (512 - 64 - 256) * 2.5 / 8));
  EXPECT_GT(rounded.quality.mean_divergence(), 10 * whole.quality.mean_divergence());
  protocol.calibration.clear();
  try {
    evaluate_one("oscar:2");
    ADD_FAILURE() << "no text to fit on was enough";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("--calibration-text"), std::string::npos)
        << error.what();
  }
}

TEST_F(TinyTexts, AreDecodedAFewTokensAtATime) {
  const auto of_batch = [&](const std::string& cache, int tokens) {
    protocol.decode_batch = tokens;
    return evaluate_one(cache).quality.divergences();
  };
  const std::vector<double> alone = of_batch("q4_0", 1), batched = of_batch("q4_0", 2);
  ASSERT_EQ(batched.size(), alone.size());
  for (std::size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(batched[i], alone[i], 0.05 * alone[i]);
  EXPECT_EQ(of_batch("f32", 3), std::vector<double>(alone.size(), 0.0));
  protocol.decode_batch = 0;
  EXPECT_THROW(cut_windows({1, 2, 3}, protocol, -1), std::runtime_error);
}

TEST_F(TinyTexts, ShareTheFirstSubspaceWhereAsked) {
  const auto by_text = [&](const std::string& cache) {
    std::vector<double> divergences;
    for (const Quality& quality : evaluate_one(cache).by_text)
      divergences.push_back(quality.mean_divergence());
    return divergences;
  };
  const std::string cache = "squat:2,quant_group_size=4,squat_lambda=1";
  EXPECT_EQ(by_text(cache), by_text(cache + ",shared_svd=false"));
  EXPECT_NE(by_text(cache), by_text(cache + ",shared_svd=true"));
}

TEST_F(TinyTexts, AreReadUnderAMetricOfTheirOwn) {
  const std::string cache = "squat:2,quant_group_size=4,squat_lambda=1";
  try {
    evaluate_one(cache + ",calibrated=true");
    ADD_FAILURE() << "no moments were enough";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("--moments"), std::string::npos) << error.what();
  }
  squat::QueryMoments moments = empty_moments(model);
  add_moments(model, texts[0][0], moments);
  protocol.moments = &moments;
  const double fitted = divergence(cache), calibrated = divergence(cache + ",calibrated=true");
  EXPECT_NE(calibrated, fitted);
  protocol.moments = nullptr;
  EXPECT_EQ(divergence(cache), fitted);
}

TEST_F(TinyTexts, CostMoreWhereALayerHasFewBits) {
  const auto costs = measure_layer_costs(model, texts, protocol);
  ASSERT_EQ(costs.size(), 2u);
  for (const squat::LayerCost& cost : costs) {
    EXPECT_GT(cost.keys, 0);
    EXPECT_GT(cost.values, 0);
  }
}

TEST(Evaluation, NamesWhatItCannotServe) {
  squat::testing::TinyModel description;
  description.architecture = "gemma4";
  const Model model = test::tiny(description);
  try {
    make_session(model, parse_cache_spec("turbo:3"), {});
    ADD_FAILURE() << "heads of two widths were served";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("turbo takes heads of one width"), std::string::npos)
        << error.what();
  }
}

// Min-max at 2 bits, by an implementation of the whole protocol in NumPy. With heads of 64 channels
// the published step of 64 leaves nothing to feed back.
TEST(Evaluation, ReproducesThePublishedDefaults) {
  SKIP_WITHOUT_MODEL();
  const Model model(test::model_path(), Weights::single, 2);
  const Protocol protocol;
  const auto windows = cut_windows(test::tokens(), protocol, -1);
  const auto results =
      evaluate(model, {parse_cache_spec("squat:2")}, {{windows.front()}}, protocol);
  for (const CacheResult& result : results) {
    EXPECT_NEAR(result.quality.mean_divergence(), 0.1883, 0.05 * 0.1883) << result.cache;
    EXPECT_NEAR(result.quality.expected_perplexity(), 43.96, 0.005 * 43.96) << result.cache;
    // Of 256 tokens alone: how a processor rounds moves it by a fiftieth.
    EXPECT_NEAR(result.quality.perplexity(), 54.90, 0.05 * 54.90) << result.cache;
    EXPECT_NEAR(result.quality.top1_agreement(), 0.707, 0.03) << result.cache;
    EXPECT_EQ(result.bytes.bits_per_element(), 3) << result.cache;
    EXPECT_EQ(result.bytes.elements, (1280 + 1280 - 32) * 30 * 3 * 64) << result.cache;
  }
}

}  // namespace
}  // namespace squat_llama
