// Query moments that a model gives, against the queries that are captured from it.
#include "moments.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "random_model.hpp"
#include "states.hpp"

namespace squat_llama {
namespace {

namespace fs = std::filesystem;

class MomentsTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder_);
    test::RandomModel random;
    random.architecture = "qwen3";
    random.head_norms = true;
    random.head_dim = 32;
    test::write_random_model(random, folder_ / "model.gguf");
    for (int i = 0; i < 50; ++i) tokens_.push_back(13 * i * i % test::kRandomVocabulary);
  }
  void TearDown() override { fs::remove_all(folder_); }

  squat::QueryMoments moments_of(const std::vector<Token>& tokens, squat::SubspaceQueries which) {
    const Model model(folder_ / "model.gguf");
    Engine engine(model, 2);
    squat::QueryMoments moments = empty_moments(model.config());
    add_moments(engine, tokens, which, moments);
    return moments;
  }

  const fs::path folder_ = testing::TempDir() + "squat_llama_moments_" + std::to_string(getpid());
  std::vector<Token> tokens_;
};

TEST_F(MomentsTest, AreThoseOfCapturedQueries) {
  const auto moments = moments_of(tokens_, squat::SubspaceQueries::after_rope);
  const Model model(folder_ / "model.gguf");
  Engine engine(model, 2);
  write_states(engine, tokens_, {}, folder_);
  for (int layer = 0; layer < 2; ++layer) {
    squat::Matrix<Eigen::half> queries(50, 4 * 32);
    std::ifstream file(folder_ / ("layer0" + std::to_string(layer) + ".q.f16"), std::ios::binary);
    file.read(reinterpret_cast<char*>(queries.data()), queries.size() * 2);
    ASSERT_TRUE(file.good());
    squat::QueryMoments expected = empty_moments(model.config());
    expected.add<Eigen::half>(layer, queries);
    for (int head = 0; head < 2; ++head) {
      const auto& sum = expected.moment(layer, head).sum();
      EXPECT_EQ(moments.moment(layer, head).count(), 100);
      EXPECT_LT((moments.moment(layer, head).sum() - sum).norm(), 2e-3 * sum.norm());
    }
  }
}

TEST_F(MomentsTest, BeforeRopeDifferByRotationsAlone) {
  const auto before = moments_of(tokens_, squat::SubspaceQueries::before_rope);
  const auto after = moments_of(tokens_, squat::SubspaceQueries::after_rope);
  const auto& a = before.moment(1, 1).sum();
  const auto& b = after.moment(1, 1).sum();
  EXPECT_GT((a - b).norm(), 0.05 * b.norm());
  for (int i = 0; i < 16; ++i)  // each pair stays as long as it was
    EXPECT_NEAR(a(i, i) + a(i + 16, i + 16), b(i, i) + b(i + 16, i + 16), 1e-4 * b.trace());
  // Nothing turns at position 0.
  const auto first = moments_of({tokens_[1]}, squat::SubspaceQueries::before_rope);
  const auto same = moments_of({tokens_[1]}, squat::SubspaceQueries::after_rope);
  EXPECT_LT((first.moment(0, 0).sum() - same.moment(0, 0).sum()).norm(),
            1e-6 * same.moment(0, 0).sum().norm());
}

TEST_F(MomentsTest, ComeBackFromAFileOfTheSameModel) {
  const auto moments = moments_of(tokens_, squat::SubspaceQueries::after_rope);
  const std::string path = folder_ / "moments";
  {
    std::ofstream file(path, std::ios::binary);
    moments.save(file);
  }
  const Model model(folder_ / "model.gguf");
  EXPECT_EQ(load_moments(path, model.config())->moment(1, 0).sum(), moments.moment(1, 0).sum());
  EXPECT_FALSE(load_moments("", model.config()).has_value());
  ModelConfig other = model.config();
  other.layers = 3;
  EXPECT_THROW(load_moments(path, other), squat::Error);
  EXPECT_THROW(load_moments(folder_ / "missing", model.config()), std::runtime_error);
}

}  // namespace
}  // namespace squat_llama
