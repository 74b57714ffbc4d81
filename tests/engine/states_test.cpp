// Captured states against what attention is given, and against an independent implementation.
#include "states.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "ggml_cache.hpp"
#include "random_model.hpp"
#include "test_model.hpp"

namespace squat_llama {
namespace {

namespace fs = std::filesystem;

std::vector<Eigen::half> read_half(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<Eigen::half> numbers(bytes.size() / sizeof(Eigen::half));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(Eigen::half));
  return numbers;
}

/// Attends with ggml, and keeps what it is given.
class WatchingCache : public GgmlCache {
 public:
  using GgmlCache::GgmlCache;

  ggml_tensor* attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                         ggml_tensor* value) override {
    for (ggml_tensor* states : {query, key, value}) {
      ggml_set_output(states);  // its memory is not used again
      tensors_.push_back(states);
    }
    return GgmlCache::attention(graph, layer, query, key, value);
  }
  void finish(int64_t tokens) override {
    GgmlCache::finish(tokens);
    for (const ggml_tensor* tensor : tensors_) {
      const auto* data = static_cast<const float*>(tensor->data);
      seen.emplace_back(data, data + ggml_nelements(tensor));
    }
  }

  std::vector<std::vector<float>> seen;  ///< q, k and v of each layer

 private:
  std::vector<ggml_tensor*> tensors_;
};

class StatesTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  const fs::path folder_ = testing::TempDir() + "squat_llama_states_" + std::to_string(getpid());
};

TEST_F(StatesTest, AreWhatAttentionIsGiven) {
  test::RandomModel random;
  random.architecture = "qwen3";
  random.head_norms = true;
  random.head_dim = 32;
  test::write_random_model(random, folder_ / "model.gguf");
  const Model model(folder_ / "model.gguf");
  Engine engine(model, 2);
  const std::vector<Token> tokens = {5, 3, 8, 100, 7, 7, 1};
  EXPECT_EQ(write_states(engine, tokens, {}, folder_ / "new" / "states"), 2u);

  WatchingCache cache(model.config(), GGML_TYPE_F32, Rotation::none, 7);
  engine.forward(tokens, cache);
  ASSERT_EQ(cache.seen.size(), 6u);
  std::size_t i = 0;
  for (const char* name :
       {"layer00.q", "layer00.k", "layer00.v", "layer01.q", "layer01.k", "layer01.v"}) {
    const auto written = read_half(folder_ / "new" / "states" / (std::string(name) + ".f16"));
    const std::vector<float>& seen = cache.seen[i++];
    ASSERT_EQ(written.size(), seen.size()) << name;
    for (std::size_t j = 0; j < seen.size(); ++j) {
      // The attention of the layers before differs in its last bits.
      ASSERT_NEAR(static_cast<float>(written[j]), seen[j], 1e-3f * (std::abs(seen[j]) + 1))
          << name << " " << j;
    }
  }
}

TEST_F(StatesTest, AgreeWithNumPyOnARealModel) {
  SKIP_WITHOUT_MODEL();
  const Model model(test::model_path(), Weights::single);
  Engine engine(model, 2);
  std::vector<Token> tokens = test::tokens();
  tokens.resize(100);
  EXPECT_EQ(write_states(engine, tokens, {20}, folder_), 1u);
  for (const char* name : {"layer20.q.f16", "layer20.k.f16", "layer20.v.f16"}) {
    const auto actual = read_half(folder_ / name);
    const auto expected = read_half(fs::path(SQUAT_EXAMPLE_DATA) / name);  // of 1280 tokens
    ASSERT_EQ(actual.size(), expected.size() / 1280 * 100) << name;
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const auto e = static_cast<double>(expected[i]);
      error += std::pow(static_cast<double>(actual[i]) - e, 2);
      norm += e * e;
    }
    EXPECT_LT(std::sqrt(error / norm), 2e-3) << name;
  }
}

TEST_F(StatesTest, NameWhatIsWrong) {
  test::RandomModel random;
  random.architecture = "llama";
  test::write_random_model(random, folder_ / "model.gguf");
  const Model model(folder_ / "model.gguf");
  Engine engine(model, 1);
  const auto error_of = [&](const std::vector<Token>& tokens, const std::set<int>& layers,
                            const fs::path& folder) -> std::string {
    try {
      write_states(engine, tokens, layers, folder);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "no error";
  };
  const auto says = [](const std::string& error, const std::string& part) {
    return error.find(part) != std::string::npos ? testing::AssertionSuccess()
                                                 : testing::AssertionFailure() << error;
  };
  EXPECT_TRUE(says(error_of({1, 2}, {1, 2}, folder_), "no layer 2; the model has layers 0 to 1"));
  EXPECT_TRUE(says(error_of({1, 2}, {-1}, folder_), "no layer -1"));
  EXPECT_TRUE(says(error_of({}, {}, folder_), "0 tokens"));
  EXPECT_TRUE(says(error_of({1, 999}, {}, folder_), "token 999"));
  const fs::path file = folder_ / "model.gguf";
  EXPECT_TRUE(says(error_of({1, 2}, {}, file / "states"),
                   "cannot make the folder " + (file / "states").string()));
  fs::create_directories(folder_ / "layer00.k.f16");  // in the way of a file
  EXPECT_TRUE(says(error_of({1, 2}, {}, folder_), "layer00.k.f16"));
}

}  // namespace
}  // namespace squat_llama
