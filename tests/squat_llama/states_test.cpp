// Captured states: against attention over them, and against an independent implementation.
#include "states.hpp"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <squat/matrix.hpp>
#include <stdexcept>

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

class StatesTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  const fs::path folder_ = testing::TempDir() + "squat_llama_states_" + std::to_string(getpid());
};

TEST_F(StatesTest, AreOfTheLayersThatAreAskedFor) {
  const Model model = test::tiny();  // 4 query and 2 kv heads of 64
  const fs::path folder = folder_ / "new" / "states";
  EXPECT_EQ(write_states(model, {5, 3, 8, 100, 7, 7, 1}, {1}, folder), 1u);
  EXPECT_FALSE(fs::exists(folder / "layer00.q.f16"));
  EXPECT_EQ(read_half(folder / "layer01.q.f16").size(), 7u * 4 * 64);
  const auto keys = read_half(folder / "layer01.k.f16"),
             values = read_half(folder / "layer01.v.f16");
  ASSERT_EQ(keys.size(), 7u * 2 * 64);
  ASSERT_EQ(values.size(), 7u * 2 * 64);
  EXPECT_EQ(write_states(model, {5, 3, 8}, {}, folder), 2u);
  const auto first = read_half(folder / "layer01.k.f16");
  ASSERT_EQ(first.size(), 3u * 2 * 64);
  for (std::size_t i = 0; i < first.size(); ++i)  // later tokens change nothing
    ASSERT_NEAR(static_cast<float>(first[i]), static_cast<float>(keys[i]),
                2e-3f * (std::abs(static_cast<float>(keys[i])) + 1));
}

TEST_F(StatesTest, AgreeWithNumPyOnARealModel) {
  SKIP_WITHOUT_MODEL();
  const Model model(test::model_path(), Weights::single, 2);
  std::vector<Token> tokens = test::tokens();
  tokens.resize(100);
  EXPECT_EQ(write_states(model, tokens, {20}, folder_), 1u);
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
  const Model model = test::tiny();
  const auto error_of = [&](const std::vector<Token>& tokens, const std::set<int>& layers,
                            const fs::path& folder) -> std::string {
    try {
      write_states(model, tokens, layers, folder);
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
  EXPECT_TRUE(says(error_of({}, {}, folder_), "no tokens"));
  EXPECT_TRUE(says(error_of({1, 999}, {}, folder_), "token 999"));
  const fs::path file = folder_ / "file";
  std::ofstream(file) << "in the way of a folder";
  EXPECT_TRUE(says(error_of({1, 2}, {}, file / "states"),
                   "cannot make the folder " + (file / "states").string()));
  fs::create_directories(folder_ / "layer00.k.f16");  // in the way of a file
  EXPECT_TRUE(says(error_of({1, 2}, {}, folder_), "layer00.k.f16"));
}

}  // namespace
}  // namespace squat_llama
