// SQuatCache::fork: copies that share what is packed, and never show on each other.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "expect_error.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

Config own_subspaces() {
  Config config = strong_feedback();
  config.shared_svd = false;
  return config;
}

void expect_same_sequences(const Cache& a, Index in_a, const Cache& b, Index in_b) {
  EXPECT_TRUE(same(a.keys(0, sequence(in_a)), b.keys(0, sequence(in_b))));
  EXPECT_TRUE(same(a.values(0, sequence(in_a)), b.values(0, sequence(in_b))));
  const Tokens newest(2, 99);
  EXPECT_TRUE(
      same(attend(a, newest.queries, sequence(in_a)), attend(b, newest.queries, sequence(in_b))));
}

/// A cache whose sequence 0 holds tokens [0, count), flushed.
Cache filled(const Tokens& tokens, Index count, const Config& config, Index sequences) {
  Cache cache(shape, config, sequences);
  update(cache, tokens, 0, count);
  cache.flush(0);
  return cache;
}

TEST(Fork, IsACopyThatGoesItsOwnWay) {
  const Tokens prompt(150, 1), left(300, 2), right(300, 3);
  for (const bool shared : {true, false}) {
    Config config = strong_feedback();
    config.shared_svd = shared;
    Cache cache = filled(prompt, 150, config, 3);
    update(cache, left, 0, 40, sequence(2));  // what it holds is dropped
    cache.fork(0, 2);
    expect_same_sequences(cache, 0, cache, 2);
    Cache left_alone = filled(prompt, 150, config, 1), right_alone = filled(prompt, 150, config, 1);
    for (Index size = 0, step = 1; size < 300; size += step, step = 1 + size % 7) {
      step = std::min(step, 300 - size);
      update(cache, left, size, step, sequence(0));
      update(cache, right, size, step, sequence(2));
      update(left_alone, left, size, step);
      update(right_alone, right, size, step);
    }
    expect_same_sequences(cache, 0, left_alone, 0);
    expect_same_sequences(cache, 2, right_alone, 0);
  }
}

TEST(Fork, SharesWhatIsPacked) {
  const Tokens prompt(1000, 1), more(50, 2);
  Cache cache = filled(prompt, 1000, own_subspaces(), 9);
  const MemoryUsage before = cache.memory();
  for (Index child = 1; child < 9; ++child) cache.fork(0, child);
  const MemoryUsage shared = cache.memory();
  EXPECT_EQ(shared.codes, before.codes);
  EXPECT_EQ(shared.scales, before.scales);
  EXPECT_EQ(shared.reserved, before.reserved);
  EXPECT_LE(shared.residual, 9 * before.residual);
  for (Index child = 1; child < 9; ++child) {
    update(cache, more, sequence(child));
    cache.flush(0, sequence(child));
  }
  // Each has new rows for 50 tokens, and the one whose values were not complete, to itself.
  const MemoryUsage grown = cache.memory();
  const Index row = (before.codes + before.scales) / (1000 / 32);
  EXPECT_LE(grown.codes + grown.scales, before.codes + before.scales + 8 * 3 * row);
  for (Index child = 1; child < 9; ++child) cache.truncate(0, sequence(child));
  EXPECT_EQ(cache.memory().codes, before.codes);

  cache.clear();
  update(cache, prompt);
  cache.flush(0);
  cache.fork(0, 1);
  cache.truncate(0, sequence(0));  // what the prefix held lives on
  Cache alone = filled(prompt, 1000, own_subspaces(), 1);
  expect_same_sequences(cache, 1, alone, 0);
  EXPECT_EQ(cache.memory().codes, before.codes);
}

TEST(Fork, MemoryReturnsToWhatItWas) {
  const Tokens prompt(1000, 1), more(100, 2);
  for (const Config& config : {own_subspaces(), Config::recommended()}) {
    Cache cache = filled(prompt, 1000, config, 4);
    const MemoryUsage before = cache.memory();
    cache.fork(0, 1);
    update(cache, more, sequence(1));
    cache.flush(0, sequence(1));
    cache.fork(1, 3);
    cache.fork(2, 1);  // an empty one
    EXPECT_GT(cache.memory().total(), before.total());
    cache.fork(2, 3);
    EXPECT_EQ(cache.memory().total(), before.total());
    EXPECT_EQ(cache.memory().codes, before.codes);
    EXPECT_EQ(cache.memory().reserved, before.reserved);
  }
}

TEST(Fork, TruncationShowsOnOneSideOnly) {
  const Tokens prompt(400, 1), others(400, 2);
  const Cache untouched = filled(prompt, 400, own_subspaces(), 1);
  for (const Index size : {0, 1, 31, 32, 33, 100, 350, 367, 368, 369, 384, 399})
    for (const Index cut : {0, 1}) {  // the sequence that is cut and refilled
      SCOPED_TRACE("sequence " + std::to_string(cut) + " to " + std::to_string(size));
      Cache cache = filled(prompt, 400, own_subspaces(), 2);
      cache.fork(0, 1);
      cache.truncate(size, sequence(cut));
      update(cache, others, 0, 200, sequence(cut));
      cache.flush(0, sequence(cut));
      expect_same_sequences(cache, 1 - cut, untouched, 0);
      Cache alone = filled(prompt, 400, own_subspaces(), 1);
      alone.truncate(size);
      update(alone, others, 0, 200);
      alone.flush(0);
      expect_same_sequences(cache, cut, alone, 0);
    }
}

TEST(Fork, OfWhatIsNotFlushedAndOfNothing) {
  const Tokens prompt(200, 1), more(100, 2);
  Cache cache(shape, own_subspaces(), 3), alone(shape, own_subspaces());
  update(cache, prompt);
  update(alone, prompt);
  cache.fork(0, 1);
  update(cache, more, sequence(1));  // packs the prompt, under a subspace of its own
  update(alone, more);
  expect_same_sequences(cache, 1, alone, 0);
  EXPECT_TRUE(same(cache.keys(0), prompt.keys));
  cache.fork(2, 1);
  EXPECT_EQ(cache.size(0, sequence(1)), 0);
  cache.fork(0, 0);
  EXPECT_TRUE(same(cache.keys(0), prompt.keys));
}

TEST(Fork, LeavesASharedSubspaceWithWhoFittedIt) {
  const Tokens first(64, 1), second(64, 2), third(64, 3);
  Cache cache(shape, strong_feedback(), 3), alone(shape, strong_feedback(), 3);
  for (Cache* one : {&cache, &alone}) {
    update(*one, first, sequence(1));
    update(*one, second, sequence(0));
  }
  cache.fork(0, 1);  // sequence 1 still has the subspace of its prompt
  for (Cache* one : {&cache, &alone}) {
    update(*one, third, sequence(2));
    one->flush(0, sequence(2));
    one->flush(0, sequence(0));
  }
  expect_same_sequences(cache, 2, alone, 2);
  expect_same_sequences(cache, 0, alone, 0);
  cache.flush(0, sequence(1));
  expect_same_sequences(cache, 1, cache, 0);
}

TEST(Fork, RefusesNumbersThatThereAreNot) {
  const Tokens prompt(50, 1);
  Cache cache = filled(prompt, 50, own_subspaces(), 2);
  for (const Index bad : {-1, 2}) {
    const std::string value = std::to_string(bad);
    EXPECT_ERROR(cache.fork(bad, 1), ("from is " + value).c_str(), "sequences 0 to 1");
    EXPECT_ERROR(cache.fork(0, bad), ("to is " + value).c_str(), "sequences 0 to 1");
    EXPECT_ERROR(cache.fork(bad, bad), ("from is " + value).c_str(), "sequences 0 to 1");
  }
  EXPECT_EQ(cache.size(0, sequence(0)), 50);
  EXPECT_EQ(cache.size(0, sequence(1)), 0);
}

/// One call that changes a sequence, with all that it needs.
struct Call {
  enum Kind { update, flush, truncate } kind;
  Index layer = 0;
  Index count = 0;  // tokens, or the size to truncate to
  unsigned seed = 0;
  std::vector<std::uint8_t> mask = {};
  FitQueries fit = FitQueries::first_update;
};

/// What happened to a sequence since it was empty.
using History = std::vector<Call>;

void repeat(const Call& call, Cache& cache, Index index) {
  CallOptions options = sequence(index);
  if (call.kind == Call::truncate) {
    cache.truncate(call.count, {options.sequence});
  } else if (call.kind == Call::flush) {
    cache.flush(call.layer, {options.sequence});
  } else {
    const Tokens tokens(call.count, call.seed);
    options.mask = call.mask;
    options.fit = call.fit;
    cache.update(call.layer, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values),
                 options);
  }
}

/// Calls at random on several sequences, each of which must be what its own history says.
void expect_every_history_agrees(const ModelShape& model, const Config& config, unsigned seed) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  constexpr Index sequences = 4;
  std::mt19937 random(seed);
  const auto below = [&](Index end) {
    return static_cast<Index>(random() % static_cast<unsigned>(end));
  };
  Cache cache(model, config, sequences);
  std::vector<History> histories(sequences);
  int forks = 0;
  for (int step = 0; step < 150; ++step) {
    const Index s = below(sequences), layer = below(model.layers), choice = below(20);
    History& history = histories[static_cast<std::size_t>(s)];
    Call call{Call::update, layer};
    if (choice < 3) {
      const Index to = below(sequences);
      forks += to != s;
      cache.fork(s, to);
      histories[static_cast<std::size_t>(to)] = History(history);
      continue;
    }
    if (choice < 5) {
      call.kind = Call::truncate;
      Index shortest = cache.size(0, sequence(s));
      for (Index other = 1; other < model.layers; ++other)
        shortest = std::min(shortest, cache.size(other, sequence(s)));
      call.count = below(6) == 0 ? 0 : std::max<Index>(shortest - below(80), 0);
      for (Index other = 0; other < model.layers && call.count > 0; ++other)
        if (const Index first = cache.first(other, sequence(s)); first > 0)
          call.count = std::max(call.count, first + model.layer(other).window);
      if (call.count > shortest) continue;
    } else if (choice < 8) {
      call.kind = Call::flush;
    } else {
      call.count = 1 + below(choice < 14 ? 4 : 90);
      call.seed = static_cast<unsigned>(random());
      for (Index t = 0; choice == 19 && t < call.count; ++t) call.mask.push_back(below(4) != 0);
      if (history.empty()) call.fit = FitQueries::accumulate;
    }
    repeat(call, cache, s);
    history.push_back(call);
  }
  EXPECT_GE(forks, 5);
  for (Index s = 0; s < sequences; ++s) {
    SCOPED_TRACE("sequence " + std::to_string(s));
    Cache alone(model, config);
    for (const Call& call : histories[static_cast<std::size_t>(s)]) repeat(call, alone, 0);
    for (Index layer = 0; layer < model.layers; ++layer) {
      EXPECT_TRUE(same(cache.keys(layer, sequence(s)), alone.keys(layer)));
      EXPECT_TRUE(same(cache.values(layer, sequence(s)), alone.values(layer)));
      if (alone.size(layer) == 0) continue;
      const Tokens newest(1, 7);
      Rows out(1, query_width), expected(1, query_width);
      cache.attend(layer, newest.queries, out, sequence(s));
      alone.attend(layer, newest.queries, expected);
      EXPECT_TRUE(same(out, expected));
    }
  }
}

TEST(Fork, EverySequenceIsWhatItsHistorySays) {
  Config published = own_subspaces(), wide = own_subspaces(), recommended = Config::recommended();
  wide.residual_length = 96;
  wide.full_precision_tokens = 5;
  wide.query_decay = 0.99;
  recommended.shared_svd = false;
  Config per_token = own_subspaces(), sliding = own_subspaces();
  per_token.key_scales = sliding.key_scales = KeyScales::per_token;
  per_token.residual_length = 0;
  sliding.residual_length = 21;
  sliding.full_precision_tokens = 3;
  const ModelShape plain{2, 4, 2, 16};
  ModelShape windowed = plain;
  windowed.by_layer.assign(2, windowed);
  windowed.by_layer[0].window = 50;
  for (const ModelShape& model : {plain, windowed})
    for (const Config& config : {published, wide, recommended, per_token, sliding})
      for (unsigned seed = 1; seed <= 3; ++seed) expect_every_history_agrees(model, config, seed);
}

}  // namespace
}  // namespace squat::testing
