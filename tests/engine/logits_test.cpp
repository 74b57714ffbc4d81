// The forward pass against independent implementations.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "cache_spec.hpp"
#include "engine.hpp"
#include "ggml_cache.hpp"
#include "llama_session.hpp"
#include "quality.hpp"
#include "random_model.hpp"
#include "test_model.hpp"

namespace squat_llama {
namespace {

squat::Matrix<float> full_precision_logits(const Model& model, const std::vector<int>& tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  GgmlCache cache(model.config(), GGML_TYPE_F32, Rotation::none, count);
  return Engine(model, 2).forward(tokens, cache, count);
}

TEST(Logits, AgreeWithNumPyOnARealModel) {
  SKIP_WITHOUT_MODEL();
  constexpr int count = 1000;
  std::vector<int> tokens = test::tokens();
  tokens.resize(count);
  const Model model(test::model_path(), Weights::single);
  const squat::Matrix<float> logits = full_precision_logits(model, tokens);

  std::ifstream reference(test::data_path("jargon_top1.txt"));
  double same = 0, loss = 0;
  for (int i = 0; i < count; ++i) {
    int expected = -1;
    reference >> expected;
    Eigen::Index likeliest = 0;
    logits.row(i).maxCoeff(&likeliest);
    same += likeliest == expected ? 1 : 0;
    if (i + 1 < count) loss -= log_softmax(logits.row(i).transpose())[tokens[i + 1]];
  }
  EXPECT_GE(same / count, 0.995);
  EXPECT_NEAR(std::exp(loss / (count - 1)), 27.650098, 0.005 * 27.650098);
}

class RandomModelTest : public testing::TestWithParam<test::RandomModel> {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "squat_llama_" + std::to_string(getpid()) + ".gguf";
    test::write_random_model(GetParam(), path_);
    for (int i = 0; i < 100; ++i) tokens_.push_back(37 * i * i % test::kRandomVocabulary);
  }
  void TearDown() override { std::remove(path_.c_str()); }

  std::string path_;
  std::vector<int> tokens_;
};

TEST_P(RandomModelTest, AgreesWithLlamaCpp) {
  const Model model(path_);
  const squat::Matrix<float> actual = full_precision_logits(model, tokens_);
  LlamaSession::Options options;
  options.capacity = static_cast<int64_t>(tokens_.size());
  options.flash_attention = false;
  const std::vector<float> reference =
      LlamaSession(path_, options).forward(tokens_, /*all_logits=*/true);
  ASSERT_EQ(reference.size(), static_cast<std::size_t>(actual.size()));
  const Eigen::Map<const squat::Matrix<float>> expected(reference.data(), actual.rows(),
                                                        actual.cols());
  EXPECT_LT((actual - expected).norm(), 1e-3f * expected.norm());
}

TEST_P(RandomModelTest, OneByOneIsAsAllAtOnce) {
  const Model model(path_);
  const squat::Matrix<float> expected = full_precision_logits(model, tokens_);
  GgmlCache cache(model.config(), GGML_TYPE_F32, Rotation::none, 100);
  Engine engine(model, 2);
  engine.forward({tokens_.begin(), tokens_.begin() + 60}, cache);
  engine.forward({tokens_.begin() + 60, tokens_.begin() + 80}, cache);
  for (int i = 80; i < 100; ++i) {
    const Eigen::RowVectorXf logits = engine.forward({tokens_[i]}, cache).row(0);
    EXPECT_LT((logits - expected.row(i)).norm(), 1e-4f * expected.row(i).norm()) << i;
  }
}

TEST_P(RandomModelTest, RopeMayBeTheCaches) {
  const Model model(path_);
  const squat::Matrix<float> expected = full_precision_logits(model, tokens_);
  const auto cache = make_cache(parse_cache_spec("squat:8,pre_rope=true,residual_length=128"),
                                model.config(), {100, 2});  // all in full precision
  Engine engine(model, 2);
  const squat::Matrix<float> prompt =
      engine.forward({tokens_.begin(), tokens_.begin() + 90}, *cache, 90);
  EXPECT_LT((prompt - expected.topRows(90)).norm(), 1e-4f * expected.norm());
  for (int i = 90; i < 100; ++i) {
    const Eigen::RowVectorXf logits = engine.forward({tokens_[i]}, *cache).row(0);
    EXPECT_LT((logits - expected.row(i)).norm(), 1e-4f * expected.row(i).norm()) << i;
  }
}

std::vector<test::RandomModel> random_models() {
  std::vector<test::RandomModel> models(8);
  models[0].architecture = "llama";
  models[0].head_dim = 32;
  models[1].architecture = "llama";
  models[1].biases = models[1].tied = true;
  models[2].architecture = "llama";
  models[2].rotary_scaling = "yarn";
  models[3].architecture = "llama";
  models[3].rotary_scaling = "linear";
  models[4].architecture = "qwen2";
  models[4].biases = true;
  models[5].architecture = "qwen2";
  models[5].biases = models[5].tied = true;
  models[5].rotary_scaling = "yarn";
  models[6].architecture = "qwen3";
  models[6].head_norms = true;
  models[6].head_dim = 32;
  models[7].architecture = "qwen3";
  models[7].head_norms = models[7].tied = true;
  return models;
}

std::string name_of(const testing::TestParamInfo<test::RandomModel>& info) {
  const test::RandomModel& model = info.param;
  return model.architecture + (model.biases ? "_biases" : "") + (model.tied ? "_tied" : "") +
         (model.rotary_scaling == "none" ? "" : "_" + model.rotary_scaling);
}

INSTANTIATE_TEST_SUITE_P(Architectures, RandomModelTest, testing::ValuesIn(random_models()),
                         name_of);

// llama.cpp's fork in the package leaves these factors out, so it is no reference for them.
TEST(Model, RotaryFactorsStretchPositionsAsLinearScalingDoes) {
  test::RandomModel factors, linear;
  factors.architecture = linear.architecture = "llama";
  factors.rotary_factors = true;
  linear.rotary_scaling = "linear";
  const std::string path = testing::TempDir() + "squat_llama_factors.gguf";
  squat::Matrix<float> logits[2];
  for (int i = 0; i < 2; ++i) {
    test::write_random_model(i == 0 ? factors : linear, path);
    const Model model(path);
    logits[i] = full_precision_logits(model, {1, 20, 3, 40, 5, 60});
    const auto cache = make_cache(parse_cache_spec("squat:8,pre_rope=true"), model.config(), {6});
    const squat::Matrix<float> before = Engine(model, 1).forward({1, 20, 3, 40, 5, 60}, *cache, 6);
    EXPECT_LT((before - logits[i]).norm(), 1e-4f * logits[i].norm());
  }
  EXPECT_LT((logits[0] - logits[1]).norm(), 1e-4f * logits[1].norm());
  std::remove(path.c_str());
}

TEST(Model, NamesAnArchitectureThatItDoesNotKnow) {
  const std::string path = testing::TempDir() + "squat_llama_gpt2.gguf";
  test::RandomModel unknown;
  unknown.architecture = "gpt2";
  test::write_random_model(unknown, path);
  try {
    Model model(path);
    ADD_FAILURE() << "gpt2 was loaded";
  } catch (const std::runtime_error& error) {
    const std::string message = error.what();
    for (const char* part : {"gpt2", "llama", "qwen2", "qwen3"}) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }
  std::remove(path.c_str());
}

TEST(Model, RefusesTensorsThatItWouldLeaveOut) {
  const std::string path = testing::TempDir() + "squat_llama_unread.gguf";
  test::RandomModel unread;
  unread.architecture = "llama";
  unread.extra_tensor = "blk.0.attn_sinks.weight";
  test::write_random_model(unread, path);
  EXPECT_THROW(Model{path}, std::runtime_error);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace squat_llama
