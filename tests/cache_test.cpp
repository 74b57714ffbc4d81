// What SQuatCache promises of itself: finality, sequences, subspaces, masks.
#include <gtest/gtest.h>

#include <limits>
#include <utility>
#include <vector>

#include "small_cache.hpp"

namespace squat::testing {
namespace {

TEST(Cache, QuantizesEachTokenOnce) {
  const Tokens tokens(300, 1);
  Cache cache(shape, strong_feedback());
  Rows keys(0, key_width), values(0, key_width);  // as they were last seen
  Index packed_keys = 0, packed_values = 0;
  for (Index size = 0, step = 50; size < 300; size += step, step = 1 + size % 7) {
    step = std::min(step, 300 - size);
    update(cache, tokens, size, step);
    cache.flush(0);
    const Index total = size + step;
    const Rows new_keys = cache.keys(0), new_values = cache.values(0);
    ASSERT_EQ(new_keys.rows(), total);
    EXPECT_TRUE(same(new_keys.topRows(packed_keys), keys.topRows(packed_keys)));
    EXPECT_TRUE(same(new_values.topRows(packed_values), values.topRows(packed_values)));

    packed_keys = total / 32 * 32;
    packed_values = std::max<Index>(total - 32, 0);
    EXPECT_TRUE(same(new_keys.bottomRows(total - packed_keys),
                     tokens.keys.middleRows(packed_keys, total - packed_keys)));
    EXPECT_TRUE(same(new_values.bottomRows(total - packed_values),
                     tokens.values.middleRows(packed_values, total - packed_values)));
    for (Index token = 0; token < packed_keys; ++token)
      EXPECT_NE(new_keys.row(token), tokens.keys.row(token));
    for (Index token = 0; token < packed_values; ++token)
      EXPECT_NE(new_values.row(token), tokens.values.row(token));
    keys = new_keys;
    values = new_values;
  }
}

TEST(Cache, KeepsNewTokensInFullPrecisionUntilTheNextCall) {
  const Tokens tokens(200, 2);
  Cache cache(shape);
  update(cache, tokens, 0, 150);
  EXPECT_TRUE(same(cache.keys(0), tokens.keys.topRows(150)));
  EXPECT_TRUE(same(cache.values(0), tokens.values.topRows(150)));
  update(cache, tokens, 150, 50);  // packs what the first call left
  EXPECT_FALSE(same(cache.keys(0).topRows(1), tokens.keys.topRows(1)));
  EXPECT_TRUE(same(cache.keys(0).bottomRows(50), tokens.keys.bottomRows(50)));
}

TEST(Cache, PiecesEqualTheWhole) {
  const Tokens tokens(200, 3);
  Cache whole(shape, strong_feedback()), pieces(shape, strong_feedback());
  update(whole, tokens, 0, 40);  // the same prompt: it fits the subspace
  update(pieces, tokens, 0, 40);
  update(whole, tokens, 40, 160);
  whole.flush(0);

  const Tokens others(9, 4);
  for (Index size = 40, piece = 1; size < 200; size += piece, piece = 1 + size % 13) {
    piece = std::min(piece, 200 - size);
    update(pieces, tokens, size, piece);
    if (size % 3 == 0) pieces.flush(0);
    if (size % 4 != 0) continue;
    // Tokens that come and go while in the residual leave no trace.
    update(pieces, others);
    pieces.truncate(size + piece);
  }
  pieces.flush(0);
  EXPECT_TRUE(same(pieces.keys(0), whole.keys(0)));
  EXPECT_TRUE(same(pieces.values(0), whole.values(0)));
  EXPECT_TRUE(same(attend(pieces, tokens.queries.bottomRows(3)),
                   attend(whole, tokens.queries.bottomRows(3))));
  EXPECT_EQ(pieces.memory().codes, whole.memory().codes);
}

TEST(Cache, AttentionIsUpdateAttendAndFlush) {
  const Tokens tokens(120, 5);
  Cache one(shape, strong_feedback()), three(shape, strong_feedback());
  for (Index size = 0, count = 90; size < 120; size += count, count = 6) {
    const Rows queries = tokens.queries.middleRows(size, count);
    Rows out(count, query_width), expected(count, query_width);
    one.attention(0, Queries(queries), Keys(tokens.keys.middleRows(size, count)),
                  Values(tokens.values.middleRows(size, count)), out);
    update(three, tokens, size, count);
    three.attend(0, queries, expected);
    three.flush(0);
    EXPECT_TRUE(same(out, expected));
    EXPECT_TRUE(same(one.keys(0), three.keys(0)));
    EXPECT_TRUE(same(one.values(0), three.values(0)));
  }
}

TEST(Cache, ServesSequencesOfTheirOwnLength) {
  const Tokens first(100, 6), second(37, 7);
  Cache cache(shape, Config{}, 2);
  update(cache, first, sequence(0));
  update(cache, second, sequence(1));
  EXPECT_EQ(cache.size(0, sequence(0)), 100);
  EXPECT_EQ(cache.size(0, sequence(1)), 37);
  cache.flush(0, sequence(1));
  EXPECT_TRUE(same(cache.keys(0, sequence(0)), first.keys));  // not flushed
  cache.truncate(5, sequence(0));
  EXPECT_EQ(cache.size(0, sequence(0)), 5);
  EXPECT_EQ(cache.size(0, sequence(1)), 37);
  cache.clear();
  EXPECT_EQ(cache.size(0, sequence(0)) + cache.size(0, sequence(1)), 0);
}

/// Dequantized keys of `tokens` alone in a cache, under the subspace of `prompt` where one is
/// given.
Rows keys_alone(const Tokens& tokens) {
  Cache cache(shape, strong_feedback());
  update(cache, tokens);
  cache.flush(0);
  return cache.keys(0);
}

TEST(Cache, FirstSequenceMayServeAllWithItsSubspace) {
  const Tokens first(64, 8);
  Tokens second(64, 9);
  second.keys = first.keys;  // so that only the subspace can tell them apart
  for (const bool shared : {true, false})
    for (const Index order : {0, 1}) {  // which sequence is prompted first
      Config config = strong_feedback();
      config.shared_svd = shared;
      Cache cache(shape, config, 2);
      update(cache, first, sequence(order));
      update(cache, second, sequence(1 - order));
      cache.flush(0, sequence(0));
      cache.flush(0, sequence(1));
      EXPECT_TRUE(same(cache.keys(0, sequence(order)), keys_alone(first)));
      EXPECT_EQ(same(cache.keys(0, sequence(1 - order)), keys_alone(first)), shared);
      EXPECT_EQ(same(cache.keys(0, sequence(1 - order)), keys_alone(second)), !shared);
    }
}

TEST(Cache, PromptInChunksMayFitAsAWhole) {
  const Tokens tokens(64, 10);
  Config config = strong_feedback();
  config.residual_length = 64;  // nothing is quantized before the prompt is complete
  const auto keys = [&](Index first_chunk, FitQueries fit) {
    Cache cache(shape, config);
    CallOptions options;
    options.fit = fit;
    update(cache, tokens, 0, first_chunk, options);
    if (first_chunk < 64) update(cache, tokens, first_chunk, 64 - first_chunk, options);
    cache.flush(0);
    return cache.keys(0);
  };
  const Rows whole = keys(64, FitQueries::first_update);
  const Rows accumulated = keys(20, FitQueries::accumulate);
  const Rows first_chunk_only = keys(20, FitQueries::first_update);
  // Sums of chunks may differ in the last digit, which can move a code or two.
  const double difference = (accumulated - whole).norm();
  EXPECT_LE(difference, 0.02 * (whole - tokens.keys).norm());
  EXPECT_GE((first_chunk_only - whole).norm(), 0.2 * (whole - tokens.keys).norm());
}

TEST(Cache, EmptiedSequencesFitAnew) {
  const Tokens first(64, 11), second(64, 12);
  Cache cache(shape, strong_feedback());
  for (const bool clear : {true, false}) {
    update(cache, first);
    cache.flush(0);
    clear ? cache.clear() : cache.truncate(0);
    EXPECT_EQ(cache.size(0), 0);
    update(cache, second);
    cache.flush(0);
    EXPECT_TRUE(same(cache.keys(0), keys_alone(second)));
    cache.clear();
  }
}

TEST(Cache, IgnoresWhatPaddingHolds) {
  const Tokens tokens(70, 13);
  Tokens padded = tokens;
  std::vector<std::uint8_t> mask(70, 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Index token : {0, 1, 2, 40, 69}) {
    mask[static_cast<std::size_t>(token)] = 0;
    padded.queries.row(token).setConstant(nan);
    padded.keys.row(token).setConstant(token == 1 ? 3e38f : nan);
    padded.values.row(token).setConstant(nan);
  }
  CallOptions options;
  options.mask = mask;
  Cache cache(shape, strong_feedback()), other(shape, strong_feedback());
  Rows out(70, query_width), other_out(70, query_width);
  cache.attention(0, Queries(padded.queries), Keys(padded.keys), Values(padded.values), out,
                  options);
  other.attention(0, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values), other_out,
                  options);
  EXPECT_TRUE(same(out, other_out));
  EXPECT_TRUE((out.row(40).array() == 0).all());
  const Rows queries = tokens.queries.bottomRows(2);
  EXPECT_TRUE(same(cache.keys(0), other.keys(0)));
  EXPECT_TRUE(same(cache.values(0), other.values(0)));
  for (const Index token : {0, 1, 2, 40, 69}) {
    EXPECT_TRUE((cache.keys(0).row(token).array() == 0).all());
    EXPECT_TRUE((cache.values(0).row(token).array() == 0).all());
  }
  EXPECT_TRUE(same(attend(cache, queries), attend(other, queries)));
  EXPECT_TRUE((attend(cache, queries).row(1).array() == 0).all());  // token 69
  EXPECT_TRUE((attend(cache, queries).row(0).array() != 0).all());
}

TEST(Cache, PaddingAloneFitsNothing) {
  const Tokens padding(40, 14), tokens(64, 15);
  const std::vector<std::uint8_t> mask(40, 0);
  CallOptions options;
  options.mask = mask;
  Cache cache(shape, strong_feedback());
  update(cache, padding, options);
  cache.flush(0);
  EXPECT_TRUE((attend(cache, padding.queries).array() == 0).all());
  EXPECT_TRUE((cache.keys(0).array() == 0).all());
  update(cache, tokens);
  cache.flush(0);
  // 8 padded tokens are in the first block of keys, which has no more than its range from them.
  EXPECT_TRUE(same(cache.keys(0).topRows(40), Rows::Zero(40, key_width)));
  EXPECT_GT(cache.memory().subspace, 0);
}

TEST(Cache, MayMove) {
  const Tokens tokens(100, 18);
  Cache cache(shape), untouched(shape);
  update(cache, tokens, 0, 80);
  update(untouched, tokens, 0, 80);
  Cache moved = std::move(cache);
  update(moved, tokens, 80, 20);
  update(untouched, tokens, 80, 20);
  EXPECT_TRUE(same(moved.keys(0), untouched.keys(0)));
  EXPECT_TRUE(same(attend(moved, tokens.queries.bottomRows(2)),
                   attend(untouched, tokens.queries.bottomRows(2))));
}

TEST(Cache, ScalesPerTokenKeepTheMetricUntilARowIsFull) {
  const Tokens tokens(104, 5);
  Config config = strong_feedback(), follows;
  config.key_scales = KeyScales::per_token;
  config.residual_length = 0;
  follows = config;
  follows.query_decay = 1;
  Cache fixed(shape, config), following(shape, follows);
  for (Cache* cache : {&fixed, &following}) {
    update(*cache, tokens, 0, 40);
    for (Index t = 40; t < 104; ++t) update(*cache, tokens, t, 1);
    cache->flush(0);
  }
  const Rows a = fixed.keys(0), b = following.keys(0);
  EXPECT_TRUE(same(a.topRows(64), b.topRows(64)));
  EXPECT_FALSE(same(a.middleRows(64, 32), b.middleRows(64, 32)));
}

}  // namespace
}  // namespace squat::testing
