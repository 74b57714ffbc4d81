// A prompt that arrives in pieces, and what goes on behind it: what the metric gathers, and what
// that costs.
#include <gtest/gtest.h>

#include <vector>

#include "saved_cache.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

CallOptions gathering(FitQueries fit = FitQueries::accumulate) {
  CallOptions options;
  options.fit = fit;
  return options;
}

/// Takes in tokens [first, end), `piece` at a time.
void feed(Cache& cache, const Tokens& tokens, Index first, Index end, Index piece,
          const CallOptions& options = gathering()) {
  for (; first < end; first += piece) {
    update(cache, tokens, first, std::min(piece, end - first), options);
    cache.flush(0);
  }
}

/// All `tokens` under the metric of `moments`.
Rows keys_under(const Tokens& tokens, const QueryMoments& moments) {
  Cache cache(shape, strong_feedback());
  cache.calibrate(moments);
  update(cache, tokens);
  cache.flush(0);
  return cache.keys(0);
}

/// Under that of the first `count`, gathered `piece` at a time.
Rows keys_under_first(const Tokens& tokens, Index count, Index piece) {
  QueryMoments moments(shape);
  for (Index first = 0; first < count; first += piece)
    moments.add<float>(0, tokens.queries.middleRows(first, piece));
  return keys_under(tokens, moments);
}

TEST(ChunkedPrompt, KeysGoByTheQueriesAtTheLastDoubling) {
  constexpr Index piece = 32, size = 1600;
  const Tokens tokens(size, 1);
  Cache cache(shape, strong_feedback());
  feed(cache, tokens, 0, size, piece);
  const Rows keys = cache.keys(0);
  Rows before;
  for (Index count = piece; count <= 1024; count *= 2) {
    SCOPED_TRACE(count);
    const Rows expected = keys_under_first(tokens, count, piece);
    const Index first = count - piece, end = count == 1024 ? size : 2 * count - piece;
    // But for the rounding of moments from piece to piece, which moves few codes.
    const auto distance = [&](const Rows& a, Index rows) {
      return (a - expected).middleRows(first, rows).norm() / std::sqrt(static_cast<float>(rows));
    };
    if (before.size() == 0) {
      EXPECT_TRUE(same(keys.middleRows(first, piece), expected.middleRows(first, piece)));
    } else {
      EXPECT_LT(distance(keys, end - first), distance(before, piece) / 8);
    }
    before = expected;
  }
}

Config chosen_bits() {
  Config config = Config::recommended();
  config.shared_svd = false;
  return config;
}

TEST(ChunkedPrompt, HasFewPlansAndForgetsMoments) {
  const Tokens tokens(4000, 2);
  Cache cache(shape, chosen_bits()), whole(shape, chosen_bits());
  feed(whole, tokens, 0, 3999, 3999);
  feed(whole, tokens, 3999, 4000, 1, {});
  const MemoryUsage one_plan = whole.memory();
  const Index triangles = 2 * 16 * 17 / 2 * Index{sizeof(float)};
  feed(cache, tokens, 0, 960, 64);
  EXPECT_GE(cache.memory().subspace, one_plan.subspace + triangles);
  feed(cache, tokens, 960, 1024, 64);
  EXPECT_EQ(cache.memory().headers, 5 * one_plan.headers);  // of 64, 128, 256, 512, 1024 tokens
  EXPECT_EQ(cache.memory().subspace, one_plan.subspace);
  feed(cache, tokens, 1024, 4000, 64);
  EXPECT_EQ(cache.memory().headers, 5 * one_plan.headers);
  EXPECT_EQ(cache.memory().subspace, one_plan.subspace);
}

TEST(ChunkedPrompt, ChoosesBitsByWhatItGathered) {
  const Tokens tokens(640, 3);
  Cache gathered(shape, chosen_bits()), first(shape, chosen_bits());
  feed(gathered, tokens, 0, 640, 64);
  feed(first, tokens, 0, 640, 64, {});
  EXPECT_TRUE(same(gathered.keys(0).topRows(64), first.keys(0).topRows(64)));
  EXPECT_FALSE(same(gathered.keys(0).middleRows(64, 64), first.keys(0).middleRows(64, 64)));
  EXPECT_EQ(gathered.memory().codes, first.memory().codes);
}

TEST(ChunkedPrompt, InOnePieceIsThePublishedFit) {
  const Tokens tokens(1500, 4);
  for (const Config& config : {strong_feedback(), chosen_bits()}) {
    Cache one(shape, config), other(shape, config);
    feed(one, tokens, 0, 1450, 1450, gathering(FitQueries::accumulate));
    feed(other, tokens, 0, 1450, 1450, gathering(FitQueries::first_update));
    feed(one, tokens, 1450, 1500, 1, {});
    feed(other, tokens, 1450, 1500, 1, {});
    EXPECT_EQ(saved(one) == saved(other), true);
  }
}

TEST(ChunkedPrompt, LaterTurnsKeepThePlan) {
  const Tokens tokens(900, 5);
  Cache cache(shape, chosen_bits()), fixed(shape, chosen_bits());
  for (Cache* one : {&cache, &fixed}) {
    feed(*one, tokens, 0, 256, 64);
    feed(*one, tokens, 256, 300, 1, {});  // an answer: the prompt is over
  }
  const MemoryUsage before = cache.memory();
  feed(cache, tokens, 300, 900, 64);
  feed(fixed, tokens, 300, 900, 64, {});
  EXPECT_EQ(cache.memory().headers, before.headers);
  EXPECT_EQ(cache.memory().subspace, before.subspace);
  EXPECT_EQ(saved(cache) == saved(fixed), true);
}

TEST(ChunkedPrompt, ShortTurnsGatherUntilKeysLeave) {
  const Tokens tokens(128, 6);
  const auto keys = [&](FitQueries second_turn) {
    Cache cache(shape, strong_feedback());
    feed(cache, tokens, 0, 10, 10);
    feed(cache, tokens, 10, 15, 1, {});
    feed(cache, tokens, 15, 128, 113, gathering(second_turn));
    return cache.keys(0);
  };
  EXPECT_FALSE(same(keys(FitQueries::accumulate), keys(FitQueries::first_update)));
}

TEST(ChunkedPrompt, GoesOnFromAFile) {
  const Tokens tokens(1900, 7);
  for (const FitQueries fit : {FitQueries::accumulate, FitQueries::follow}) {
    Cache cache(shape, chosen_bits()), reloaded(shape, chosen_bits());
    for (Index first = 0; first < 1900; first += 50) {
      feed(cache, tokens, first, first + 50, 50, gathering(fit));
      feed(reloaded, tokens, first, first + 50, 50, gathering(fit));
      const std::string file = saved(reloaded);
      reloaded.clear();
      load(reloaded, file);
      ASSERT_EQ(saved(reloaded) == saved(cache), true) << first;
    }
    EXPECT_TRUE(same(reloaded.keys(0), cache.keys(0)));
  }
}

/// Under that of those from `first` on, `step` apart, before `end`.
Rows keys_under_some(const Tokens& tokens, Index first, Index end, Index step) {
  QueryMoments moments(shape);
  for (; first < end; first += step) moments.add<float>(0, tokens.queries.middleRows(first, 1));
  return keys_under(tokens, moments);
}

TEST(LongSequences, KeysFollowTheNewestQueries) {
  constexpr Index prompt = 256, size = 384, block = 32;
  Tokens tokens(size, 9);
  for (Index first = prompt; first < size; first += block)
    tokens.queries.middleRows(first, block).rowwise() = tokens.queries.row(first).eval();
  const Rows of_prompt = keys_under_first(tokens, prompt, block);
  for (const Index piece : {32, 1, 64}) {
    SCOPED_TRACE(piece);
    Cache cache(shape, strong_feedback());
    feed(cache, tokens, 0, prompt, block, gathering(FitQueries::follow));
    feed(cache, tokens, prompt, size, piece, gathering(FitQueries::follow));
    const Rows keys = cache.keys(0);
    const auto distance = [&](const Rows& other, Index first, Index rows) {
      return (keys - other).middleRows(first, rows).norm();
    };
    const Index leaving = std::max(piece, block), step = piece == 1 ? 4 : 1;
    for (Index first = prompt; first < size; first += leaving) {
      SCOPED_TRACE(first);
      const Rows of_newest = keys_under_some(tokens, first, first + leaving, step);
      // But for the rounding of moments.
      EXPECT_LT(distance(of_newest, first, leaving), distance(of_prompt, first, leaving) / 4);
      if (first > prompt) continue;
      EXPECT_LT(distance(of_prompt, first - block, block),
                distance(of_newest, first - block, block) / 4);
    }
  }
}

TEST(LongSequences, HaveNewBitsEveryThousandTokens) {
  const Tokens tokens(3200, 2);
  for (const Index piece : {64, 1}) {
    SCOPED_TRACE(piece);
    Cache cache(shape, chosen_bits());
    feed(cache, tokens, 0, 1088, 64);
    const MemoryUsage before = cache.memory();
    const Index plan = before.headers / 5;  // of 64, 128, 256, 512, 1024 tokens
    auto feed_until = [&, at = Index{1088}](Index end) mutable {
      feed(cache, tokens, at, end, piece, gathering(FitQueries::follow));
      at = end;
      return cache.memory();
    };
    EXPECT_EQ(feed_until(1984).headers, before.headers);
    EXPECT_EQ(feed_until(2112).headers, before.headers + plan);
    EXPECT_EQ(feed_until(3008).headers, before.headers + plan);
    EXPECT_EQ(feed_until(3136).headers, before.headers + 2 * plan);
    // Queries wait for keys to leave as directions, and no longer.
    EXPECT_EQ(cache.memory().subspace, before.subspace);
    const Index directions = 2 * 16 * 16 * Index{sizeof(float)} + 2 * 128;
    EXPECT_LE(feed_until(3168).subspace, before.subspace + directions);
    EXPECT_EQ(feed_until(3200).subspace, before.subspace);
  }
}

TEST(LongSequences, KeepTheirPlanWhenFewQueriesCome) {
  constexpr Index prompt = 320, size = 384;
  const Tokens tokens(size, 2);
  for (const Index few : {12, 16}) {
    SCOPED_TRACE(few);
    Config config = strong_feedback();
    config.full_precision_tokens = 0;
    Cache cache(shape, config), fixed(shape, config);
    for (Cache* one : {&cache, &fixed}) feed(*one, tokens, 0, prompt, 32);
    // The others are padding.
    std::vector<std::uint8_t> valid(size, 0);
    std::fill_n(valid.begin() + prompt, few, std::uint8_t{1});
    for (Index token = prompt; token < size; ++token) {
      const Mask mask(valid.data() + token, 1);
      for (const bool follows : {true, false}) {
        CallOptions options = gathering(follows ? FitQueries::follow : FitQueries::first_update);
        options.mask = mask;
        update(follows ? cache : fixed, tokens, token, 1, options);
        (follows ? cache : fixed).flush(0);
      }
    }
    EXPECT_EQ(same(cache.keys(0), fixed.keys(0)), few == 12);  // of which 3 are sampled
  }
}

TEST(LongSequences, FollowInChunksOfAnySize) {
  const Tokens tokens(6144, 3);
  for (const Index piece : {512, 2048, 3000}) {
    SCOPED_TRACE(piece);
    Cache cache(shape, chosen_bits()), fixed(shape, chosen_bits());
    feed(cache, tokens, 0, 6144, piece, gathering(FitQueries::follow));
    feed(fixed, tokens, 0, 6144, piece);
    EXPECT_GT(cache.memory().headers, fixed.memory().headers);
    EXPECT_TRUE(cache.keys(0).allFinite());
  }
}

TEST(ChunkedPrompt, ExactTokensTakeTheirOwnBytes) {
  Config none = chosen_bits(), one = chosen_bits();
  none.full_precision_tokens = 0;
  one.full_precision_tokens = 1;
  Tokens tokens(640, 8);
  normalize_keys(tokens);
  Cache without(shape, none), with(shape, one);
  feed(without, tokens, 0, 640, 64);
  feed(with, tokens, 0, 640, 64);
  // 16 bits a number, and for the 16 of each of two heads a scale of 16 bits.
  EXPECT_EQ(with.memory().residual - without.memory().residual,
            2 * (2 * key_width + 2 * 2) + Index{sizeof(Index)});
}

}  // namespace
}  // namespace squat::testing
