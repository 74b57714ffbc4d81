// The evaluation against figures of an independent implementation.
#include "evaluation.hpp"

#include <gtest/gtest.h>

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
  EXPECT_THROW(cut_windows({1, 2, 3, 4, 5, 6}, protocol, -1), std::runtime_error);
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
                                {windows.front()}, protocol);
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
