// Threads that call at the same time, each on layers and sequences of its own.
#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "small_cache.hpp"

namespace squat::testing {
namespace {

constexpr Index sequences = 4;

ModelShape two_layer_shape() {
  ModelShape model{2, 4, 2, 16};
  model.by_layer.assign(2, model);
  model.by_layer[1].window = 60;
  return model;
}

/// Everything that a layer of a sequence puts out while it takes in a prompt and decodes.
std::vector<Rows> converse(Cache& cache, Index layer, Index index, Index prompt = 130) {
  std::vector<Rows> outputs;
  const Tokens tokens(prompt + 120, static_cast<unsigned>(10 * layer + index));
  const CallOptions options = sequence(index);
  for (Index size = 0, count = prompt; size < tokens.keys.rows(); size += count, count = 1) {
    Rows out(count, query_width);
    cache.attention(layer, Queries(tokens.queries.middleRows(size, count)),
                    Keys(tokens.keys.middleRows(size, count)),
                    Values(tokens.values.middleRows(size, count)), out, options);
    outputs.push_back(out);
    if (size % 40 == 0) outputs.push_back(cache.keys(layer, options));
  }
  outputs.push_back(cache.keys(layer, options));
  outputs.push_back(cache.values(layer, options));
  return outputs;
}

bool same_all(const std::vector<Rows>& a, const std::vector<Rows>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Rows& one, const Rows& other) { return same(one, other); });
}

/// What every layer of every sequence puts out, conversing one after the other or all at once.
std::vector<std::vector<Rows>> converse_all(Cache& cache, bool at_once, Index first = 0) {
  std::vector<std::vector<Rows>> outputs(static_cast<std::size_t>(2 * sequences));
  std::vector<std::thread> threads;
  for (Index s = first; s < sequences; ++s)
    for (Index layer = 0; layer < 2; ++layer) {
      const auto one = [&cache, &output = outputs[static_cast<std::size_t>(2 * s + layer)], layer,
                        s] { output = converse(cache, layer, s); };
      if (at_once)
        threads.emplace_back(one);
      else
        one();
    }
  for (std::thread& thread : threads) thread.join();
  return outputs;
}

void expect_same_outputs(const std::vector<std::vector<Rows>>& a,
                         const std::vector<std::vector<Rows>>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_all(a[i], b[i])) << i;
}

TEST(Threads, OwnSubspacesGiveTheSameBytes) {
  for (Config config : {strong_feedback(), Config::recommended()}) {
    config.shared_svd = false;
    Cache serial(two_layer_shape(), config, sequences),
        parallel(two_layer_shape(), config, sequences);
    expect_same_outputs(converse_all(serial, false), converse_all(parallel, true));
  }
}

TEST(Threads, GoByTheSubspaceOfOneSequence) {
  // Its plan is there before the others come.
  Cache serial(two_layer_shape(), strong_feedback(), sequences);
  Cache parallel(two_layer_shape(), strong_feedback(), sequences);
  for (Cache* cache : {&serial, &parallel})
    for (Index layer = 0; layer < 2; ++layer) converse(*cache, layer, 0);
  expect_same_outputs(converse_all(serial, false, 1), converse_all(parallel, true, 1));
}

TEST(Threads, WhoeverComesFirstFitsTheSubspace) {
  for (const double decay : {0.0, 0.99})
    for (const bool calibrated : {false, true}) {
      Config config = Config::recommended();
      config.shared_svd = true;
      config.query_decay = decay;
      config.residual_bits = 0;  // so that the newest keys are as given
      Cache cache(two_layer_shape(), config, sequences);
      if (calibrated) {
        QueryMoments moments(two_layer_shape());
        for (Index layer = 0; layer < 2; ++layer) moments.add<float>(layer, Tokens(100, 1).queries);
        cache.calibrate(moments);
      }
      for (const std::vector<Rows>& outputs : converse_all(cache, true))
        for (const Rows& output : outputs) EXPECT_TRUE(output.allFinite());
      for (Index s = 0; s < sequences; ++s) {
        const Tokens tokens(250, static_cast<unsigned>(s));
        const Rows keys = cache.keys(0, sequence(s));
        ASSERT_EQ(keys.rows(), 250);
        EXPECT_LE((keys - tokens.keys).norm(), 0.7f * tokens.keys.norm());
        EXPECT_TRUE(same(keys.bottomRows(10), tokens.keys.bottomRows(10)));
      }
    }
}

/// One sequence appends and is attended, while its forks do, and are cut back, and forked again.
std::vector<std::vector<Rows>> go_on_from_forks(Cache& cache, bool at_once) {
  const Tokens prompt(500, 1);
  for (Index layer = 0; layer < 2; ++layer) {
    cache.update(layer, Queries(prompt.queries), Keys(prompt.keys), Values(prompt.values));
    cache.flush(layer);
  }
  for (Index child = 1; child < sequences; ++child) cache.fork(0, child);
  std::vector<std::vector<Rows>> outputs(static_cast<std::size_t>(sequences));
  const auto append = [&](Index s, Index layer) {
    std::vector<Rows> more = converse(cache, layer, s, 40);
    auto& output = outputs[static_cast<std::size_t>(s)];
    output.insert(output.end(), more.begin(), more.end());
  };
  const std::function<void()> stories[] = {[&] {
                                             append(0, 0);
                                             append(0, 1);
                                           },
                                           [&] {
                                             append(1, 0);
                                             append(1, 1);
                                             cache.truncate(cache.size(1, sequence(1)) - 30,
                                                            sequence(1));
                                             append(1, 0);
                                           },
                                           // Sequences 2 and 3 are one thread's.
                                           [&] {
                                             cache.truncate(480, sequence(3));
                                             append(3, 0);
                                             append(2, 1);
                                             for (int time = 0; time < 5; ++time) {
                                               cache.fork(2, 3);
                                               append(3, 0);
                                               cache.fork(3, 2);
                                               append(2, 1);
                                             }
                                           }};
  std::vector<std::thread> threads;
  for (const auto& story : stories)
    if (at_once)
      threads.emplace_back(story);
    else
      story();
  for (std::thread& thread : threads) thread.join();
  return outputs;
}

TEST(Threads, ForksShareSlabs) {
  for (Config config : {strong_feedback(), Config::recommended()}) {
    config.shared_svd = false;
    Cache serial(two_layer_shape(), config, sequences),
        parallel(two_layer_shape(), config, sequences);
    expect_same_outputs(go_on_from_forks(serial, false), go_on_from_forks(parallel, true));
  }
}

TEST(Threads, ManyReadTheSame) {
  const Tokens prompt(300, 1);
  Cache cache(two_layer_shape(), Config::recommended());
  cache.update(0, Queries(prompt.queries), Keys(prompt.keys), Values(prompt.values));
  cache.flush(0);
  const Rows expected = attend(cache, prompt.queries.bottomRows(2));
  std::vector<Rows> outputs(4);
  std::vector<std::thread> threads;
  for (Rows& output : outputs)
    threads.emplace_back([&] {
      for (int time = 0; time < 10; ++time) output = attend(cache, prompt.queries.bottomRows(2));
      EXPECT_GT(cache.memory().total(), 0);
      EXPECT_EQ(cache.keys(0).rows(), 300);
    });
  for (std::thread& thread : threads) thread.join();
  for (const Rows& output : outputs) EXPECT_TRUE(same(output, expected));
}

}  // namespace
}  // namespace squat::testing
