// Tokens taken out of the middle of a sequence, and tokens that move.
#include <gtest/gtest.h>

#include <sstream>

#include "expect_error.hpp"
#include "shaped_conversation.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

// What is held after each step is what was held before, moved; attention sees that and nothing
// else.
void move_in_conversation(unsigned seed, bool exact) {
  Draw draw(seed);
  LayerShape shape = drawn_shape(draw);
  shape.rope = draw.rope(shape.head_dim);
  shape.rope.is_applied = true;
  if (shape.values_in_keys && shape.rope.pairing != RopePairing::none) {
    shape.value_dim = shape.head_dim - 8;
    shape.values_in_keys = shape.value_dim > 0;
    shape.rope.first = shape.values_in_keys ? shape.value_dim : 0;
  }
  Config config = draw.config();
  config.arithmetic = exact ? Arithmetic::dequantized : Arithmetic::fast;
  config.residual_bits = 0;  // keys that move are rounded again
  SCOPED_TRACE(described(seed, shape, config));
  ShapedConversation conversation(shape, config, 1000 * seed);
  conversation.attention(draw.of<Index>({20, 150, 300}), draw.of<Index>({0, 0, 7}), draw);
  for (int step = 0; step < 6; ++step) {
    const Index size = conversation.size();
    const auto part = [&](Index of) {
      return static_cast<Index>(draw.of({0.0, 0.1, 0.3, 0.77, 0.95}) * static_cast<double>(of));
    };
    const Index begin = part(size - 1), end = begin + part(size - 1 - begin);
    conversation.erase({begin, end});
    const Index moved_end = draw.of({true, true, false}) ? size : end + part(size - end);
    if (begin < end && draw.of({0, 1, 1}) == 1)
      conversation.shift({end, moved_end}, draw.of({begin - end, -(end - begin) / 2}));
    else if (begin < end)
      conversation.shift({part(begin), begin}, draw.of({end - begin, (end - begin + 1) / 2}));
    if (draw.of({0, 0, 1}) == 1)
      conversation.shift({part(conversation.size()), conversation.size()}, 5);
    if (draw.of({0, 1}) == 1) conversation.move_on(draw);
    const bool forgets = shape.window + shape.chunk > 0;  // what older queries see
    const Index rows = forgets ? 1 : draw.of<Index>({1, 3, 12});
    conversation.attend(std::min(rows, conversation.size()), -1, draw);
    conversation.attention(draw.of<Index>({1, 2, 9, 40}), 0, draw);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Moves, LeaveWhatTheOthersAre) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    move_in_conversation(seed, true);
    if (HasFailure()) return;
  }
}

TEST(Moves, LeaveWhatTheOthersAreForCodes) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    move_in_conversation(1000 + seed, false);
    if (HasFailure()) return;
  }
}

/// Keys turned from position `from` to position `to`, row by row.
Matrix<float> turned(const LayerShape& shape, const Matrix<float>& rows, Index delta) {
  Matrix<float> out(rows.rows(), rows.cols());
  for (Index row = 0; row < rows.rows(); ++row)
    out.row(row) = rotated(shape, Matrix<float>(rows.row(row)), delta).template cast<float>();
  return out;
}

ModelShape turning_shape(bool is_applied) {
  ModelShape shape{2, 4, 2, 16};
  shape.rope.pairing = RopePairing::halves;
  shape.rope.is_applied = is_applied;
  return shape;
}

/// Tokens for turning_shape().
struct TurningTokens {
  explicit TurningTokens(Index count)
      : queries(random_matrix<float>(count, 4 * 16, 1)),
        keys(correlated_matrix<float>(count, 2 * 16, 2)),
        values(random_matrix<float>(count, 2 * 16, 3)) {}

  template <class Cache>
  void give(Cache& cache, Index first, Index count, Index sequence = 0) const {
    for (Index layer = 0; layer < 2; ++layer) {
      CallOptions options;
      options.sequence = sequence;
      cache.update(layer, Queries<float>(queries.middleRows(first, count)),
                   Keys<float>(keys.middleRows(first, count)),
                   Values<float>(values.middleRows(first, count)), options);
    }
  }

  Matrix<float> queries, keys, values;
};

// A context that is full makes room: what attention sees then is what it sees of a cache that was
// given the tokens that stay, at the positions where they are now.
TEST(Moves, AContextShiftIsARebuild) {
  for (const bool is_applied : {true, false}) {
    const ModelShape shape = turning_shape(is_applied);
    Config config;
    config.residual_length = 256;  // nothing is quantized
    SQuatCache<float, 2> cache(shape, config), rebuilt(shape, config);
    const TurningTokens tokens(200);
    tokens.give(cache, 0, 180);
    cache.erase({4, 100});
    EXPECT_EQ(cache.size(0), 180);
    EXPECT_TRUE((cache.keys(0).middleRows(4, 96).array() == 0).all());
    cache.shift({100, 180}, -96);
    EXPECT_EQ(cache.size(1), 84);
    TurningTokens stay = tokens;
    if (is_applied) {
      stay.keys.middleRows(100, 80) = turned(shape, tokens.keys.middleRows(100, 80), -96);
      stay.queries.middleRows(100, 80) = turned(shape, tokens.queries.middleRows(100, 80), -96);
    }
    stay.give(rebuilt, 0, 4);
    stay.give(rebuilt, 100, 80);
    for (auto* one : {&cache, &rebuilt}) tokens.give(*one, 180, 20);
    Matrix<float> out(20, 4 * 16), expected(20, 4 * 16);
    for (Index layer = 0; layer < 2; ++layer) {
      cache.attend(layer, tokens.queries.bottomRows(20), out);
      rebuilt.attend(layer, tokens.queries.bottomRows(20), expected);
      EXPECT_LE((out - expected).norm(), 1e-5 * expected.norm());
      EXPECT_EQ(cache.size(layer), 104);
    }
  }
}

TEST(Moves, ErasedToTheEndIsTruncated) {
  SQuatCache<float, 2> cache(turning_shape(true), Config::recommended()),
      cut = SQuatCache<float, 2>(turning_shape(true), Config::recommended());
  const TurningTokens tokens(300);
  for (auto* one : {&cache, &cut}) tokens.give(*one, 0, 300);
  cache.erase({130, 300});
  cut.truncate(130);
  EXPECT_EQ(cache.size(0), 130);
  EXPECT_TRUE(same_bytes<float>(cache.keys(1), cut.keys(1)));
}

TEST(Moves, GiveMemoryBack) {
  SQuatCache<float, 2> cache(turning_shape(true), Config::recommended(), 2);
  const TurningTokens tokens(4000);
  tokens.give(cache, 0, 4000);
  cache.flush(0);
  cache.flush(1);
  const auto packed = [&] {
    const MemoryUsage memory = cache.memory();
    return memory.codes + memory.scales + memory.reserved;
  };
  const Index all = packed();
  cache.fork(0, 1);
  cache.erase({100, 3900});
  const Matrix<float> keys = cache.keys(0);
  EXPECT_EQ(packed(), all);
  cache.truncate(0, {1});
  cache.erase({100, 3901});  // frees what was shared before
  EXPECT_LT(packed(), all / 8);
  EXPECT_TRUE(same_bytes<float>(cache.keys(0).topRows(3900), keys.topRows(3900)));
}

// Attention sinks that are taken out are not made up for, however many tokens stay in full
// precision.
TEST(Moves, NothingTakesThePlaceOfErasedSinks) {
  for (const Index full_precision : {0, 9}) {
    ModelShape shape = turning_shape(true);
    shape.window = 20;
    shape.sink_tokens = 4;
    Config config;
    config.full_precision_tokens = full_precision;
    config.arithmetic = Arithmetic::dequantized;
    SQuatCache<float, 4> cache(shape, config);
    const TurningTokens tokens(200);
    tokens.give(cache, 0, 100);
    cache.erase({1, 3});
    tokens.give(cache, 100, 100);
    Matrix<float> out(1, 4 * 16);
    cache.attend(0, tokens.queries.bottomRows(1), out);
    std::vector<std::uint8_t> seen(200, 0);
    seen[0] = seen[3] = 1;
    std::fill(seen.begin() + 180, seen.end(), std::uint8_t{1});
    LayerShape plain = shape;
    plain.window = 0;
    Matrix<float> keys = tokens.keys, values = tokens.values;
    const Index held = cache.keys(0).rows();
    keys.bottomRows(held) = cache.keys(0);
    values.bottomRows(held) = cache.values(0);
    const Matrix<double> expected =
        dense_attention<float>(plain, tokens.queries.bottomRows(1), keys, values, seen);
    EXPECT_LE((out.cast<double>() - expected).norm(), 1e-4 * expected.norm());
  }
}

TEST(Moves, AreRefused) {
  const auto make = [](bool known) {
    ModelShape shape = turning_shape(true);
    if (!known) shape.rope = {};
    SQuatCache<float, 2> cache(shape, Config::recommended());
    TurningTokens(200).give(cache, 0, 200);
    return cache;
  };
  auto cache = make(true);
  const Matrix<float> keys = cache.keys(0);
  EXPECT_ERROR(cache.erase({-1, 4}), "range is [-1, 4); layer 0 of sequence 0 has tokens [0, 200)");
  EXPECT_ERROR(cache.erase({5, 4}), "range is [5, 4)");
  EXPECT_ERROR(cache.erase({5, 201}), "range is [5, 201)");
  EXPECT_ERROR(cache.shift({5, 201}, 1), "range is [5, 201)");
  EXPECT_ERROR(cache.shift({5, 200}, -6), "delta is -6; for tokens [5, 200) it must be -5 to");
  EXPECT_ERROR(cache.shift({5, 200}, Index{1} << 60), "it must be -5 to 281474976710456");
  EXPECT_ERROR(cache.shift({50, 200}, -20),
               "delta is -20; tokens [50, 200) cannot move over token 30, which must be erased");
  EXPECT_ERROR(cache.shift({50, 60}, 4), "cannot move over token 60, which must be erased");
  EXPECT_TRUE(same_bytes<float>(cache.keys(0), keys));
  auto unknown = make(false);
  unknown.erase({20, 30});
  EXPECT_ERROR(unknown.shift({30, 200}, -10), "the shape does not say how keys of layer 0 turn");

  ModelShape window = turning_shape(true);
  window.window = 30;
  Config config;
  config.residual_length = 32;
  SQuatCache<float, 2> short_sighted(window, config);
  const TurningTokens tokens(200);
  for (Index first = 0; first < 200; first += 50) tokens.give(short_sighted, first, 50);
  for (const Index layer : {0, 1}) short_sighted.flush(layer);
  ASSERT_EQ(short_sighted.first(0), 128);
  short_sighted.erase({120, 198});
  EXPECT_ERROR(short_sighted.shift({198, 200}, -78), "has dropped what its newest token would see");
  EXPECT_EQ(short_sighted.size(0), 200);
}

TEST(Moves, LeaveNoTraceOfErasedTokensThatWereNotPacked) {
  const Tokens tokens(20, 71);
  Tokens others = tokens;
  others.keys.row(15) *= 2;
  others.values.row(15) *= -3;
  const auto file = [](const Tokens& of) {
    Cache cache(shape);
    update(cache, of);
    cache.erase({15, 16});
    std::ostringstream out;
    cache.save(out);
    return out.str();
  };
  EXPECT_TRUE(file(tokens) == file(others));
}

}  // namespace
}  // namespace squat::testing
