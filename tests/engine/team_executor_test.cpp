// Tasks on threads that enter operations together.
#include "team_executor.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

#include "cache_spec.hpp"
#include "engine.hpp"
#include "random_model.hpp"

namespace squat_llama {
namespace {

TEST(TeamExecutor, RunsEveryTaskOnceInManyOperations) {
  constexpr int threads = 3, operations = 200, tasks = 17;
  TeamExecutor team(threads);
  std::vector<std::atomic<int>> runs(tasks);
  for (int operation = 0; operation < operations; ++operation) {
    std::vector<std::thread> helpers;
    for (int thread = 1; thread < threads; ++thread) {
      helpers.emplace_back([&team, thread] { team.help(thread); });
    }
    team.lead([&] {
      for (int times = 0; times < 2; ++times) {
        team.run(tasks, [&](squat::Index i) { ++runs[static_cast<std::size_t>(i)]; });
        for (const auto& count : runs) ASSERT_EQ(count, 2 * operation + times + 1);
      }
    });
    for (std::thread& helper : helpers) helper.join();
  }
}

TEST(TeamExecutor, ThreadsDoNotChangeWhatAModelPredicts) {
  const std::string path =
      testing::TempDir() + "squat_llama_team_" + std::to_string(getpid()) + ".gguf";
  test::RandomModel random;
  random.architecture = "llama";
  random.head_dim = 32;
  test::write_random_model(random, path);
  const Model model(path);
  std::remove(path.c_str());
  std::vector<Token> prompt;
  for (int i = 0; i < 90; ++i) prompt.push_back(11 * i * i % test::kRandomVocabulary);
  for (const char* spec : {"squat:2,quant_group_size=1", "turbo:3"}) {
    squat::Matrix<float> expected;
    for (const int threads : {1, 3}) {
      Engine engine(model, threads);
      const auto cache = make_cache(parse_cache_spec(spec), model.config(), {100, threads});
      engine.forward(prompt, *cache);
      for (const Token token : {1, 2, 3}) engine.forward({token}, *cache);
      const squat::Matrix<float> logits = engine.forward({4}, *cache);
      if (threads == 1) expected = logits;
      EXPECT_EQ(logits, expected) << spec << " on " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace squat_llama
