// Several caches filled by one pass.
#include "tee_cache.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

#include "cache_spec.hpp"
#include "engine.hpp"
#include "random_model.hpp"

namespace squat_llama {
namespace {

class TeeCacheTest : public testing::TestWithParam<const char*> {
 protected:
  TeeCacheTest() {
    const std::string path =
        testing::TempDir() + "squat_llama_tee_" + std::to_string(getpid()) + ".gguf";
    test::RandomModel random;
    random.architecture = "llama";
    random.head_dim = 32;
    test::write_random_model(random, path);
    model_ = std::make_unique<Model>(path);
    std::remove(path.c_str());
    for (int i = 0; i < 80; ++i) prompt_.push_back(7 * i * i % test::kRandomVocabulary);
  }
  std::unique_ptr<KvCache> make(const std::string& spec) const {
    return make_cache(parse_cache_spec(spec), model_->config(), {100, 2});
  }

  std::unique_ptr<Model> model_;
  std::vector<Token> prompt_;
};

TEST_P(TeeCacheTest, GivesAllCachesTheSame) {
  Engine engine(*model_, 2);
  const auto first = make(GetParam()), alone = make(GetParam()), second = make(GetParam());
  const auto q4 = make("q4_0"), squat = make("squat:4"), before = make("squat:4,pre_rope=true");
  TeeCache all({first.get(), q4.get(), squat.get(), before.get(), second.get()});
  engine.read_prompt(prompt_, all, 50);
  engine.read_prompt(prompt_, *alone, 50);
  for (const KvCache* cache : {first.get(), q4.get(), squat.get(), before.get(), second.get()}) {
    EXPECT_EQ(cache->size(), 80);
  }
  const squat::Matrix<float> expected = engine.forward({1}, *alone);
  EXPECT_EQ(engine.forward({1}, *first), expected);
  EXPECT_EQ(engine.forward({1}, *second), expected);
  for (KvCache* cache : {q4.get(), squat.get(), before.get()}) {
    EXPECT_LT((engine.forward({1}, *cache) - expected).norm(), 0.3f * expected.norm());
  }
}

INSTANTIATE_TEST_SUITE_P(Leaders, TeeCacheTest,
                         testing::Values("f16", "squat:8", "squat:8,pre_rope=true"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return info.index == 0   ? "ggml"
                                  : info.index == 1 ? "squat"
                                                    : "squat_before_rope";
                         });

}  // namespace
}  // namespace squat_llama
