// Attention of every kind that LayerShape and CallOptions can say, against dense attention.
#include <gtest/gtest.h>

#include <array>
#include <squat/eigen_executor.hpp>
#include <sstream>

#include <squat/squat.hpp>
#include "attended.hpp"
#include "dense_attention.hpp"
#include "drawn_config.hpp"
#include "expect_error.hpp"
#include "random_matrix.hpp"
#include "same_bytes.hpp"
#include "shaped_conversation.hpp"
#include "token_history.hpp"

namespace squat::testing {
namespace {

/// Heads have `head_dim`, where it is not 0.
void converse_in_shape(unsigned seed, bool exact, Index head_dim = 0) {
  Draw draw(seed);
  LayerShape shape = drawn_shape(draw);
  if (head_dim > 0) {
    shape.head_dim = head_dim;
    shape.value_dim = draw.of<Index>({0, 1, 61});
    if (head_dim > 512) shape.value_dim = 512;
    shape.values_in_keys = shape.value_width() <= shape.head_dim && draw.of({0, 1}) == 1;
  }
  Config config = draw.config();
  config.arithmetic = exact ? Arithmetic::dequantized : Arithmetic::fast;
  if (exact) config.residual_bits = 0;  // new tokens are compared with what came
  SCOPED_TRACE(described(seed, shape, config));
  ShapedConversation conversation(shape, config, 1000 * seed);
  conversation.attention(draw.of<Index>({1, 70, 150}), draw.of<Index>({0, 0, 1}), draw);
  for (int call = 0; call < 4; ++call) {
    conversation.attention(draw.of<Index>({1, 2, 9, 40}), 0, draw);
    conversation.attend(1, -1, draw);
  }
  conversation.attend(3, conversation.size() + 5, draw);
}

/// Tokens of several sequences in a cache of `shape`, some of them with many.
SQuatCache<float, 2> of_sequences(const ModelShape& shape, const Config& config, Index sequences) {
  SQuatCache<float, 2> cache(shape, config, sequences);
  for (Index sequence = 0; sequence < sequences; ++sequence) {
    const unsigned seed = 10 * static_cast<unsigned>(sequence);
    const Index tokens = sequence % 3 == 0 ? 2200 : 20 + 30 * sequence;
    CallOptions options;
    options.sequence = sequence;
    cache.update(0, Queries(random_matrix<float>(tokens, 4 * 16, seed)),
                 Keys(random_matrix<float>(tokens, 2 * 16, seed + 1)),
                 Values(random_matrix<float>(tokens, 2 * 16, seed + 2)), options);
    cache.flush(0, options);
  }
  return cache;
}

TEST(AttendSequences, IsTheSameAsOneByOne) {
  const ModelShape model{1, 4, 2, 16};
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::dequantized}) {
    Config config = Config::recommended();
    config.arithmetic = arithmetic;
    auto cache = of_sequences(model, config, 7);
    Eigen::ThreadPool pool(3);
    EigenExecutor executor(pool);
    const Index rows_of[] = {1, 1, 9, 20, 1, 3, 40};
    std::vector<Matrix<float>> queries, outs, sums, expected, expected_sums;
    for (Index sequence = 0; sequence < 7; ++sequence) {
      queries.push_back(random_matrix<float>(rows_of[sequence], 4 * 16, 99));
      for (auto* all : {&outs, &expected}) all->emplace_back(rows_of[sequence], 4 * 16);
      for (auto* all : {&sums, &expected_sums}) all->emplace_back(rows_of[sequence], 4);
    }
    std::vector<SequenceQueries<float>> calls;
    for (std::size_t i = 0; i < 7; ++i) {
      CallOptions options;
      options.sequence = static_cast<Index>(i);
      options.log_sum_exp = expected_sums[i].data();
      cache.attend(0, queries[i], expected[i], options);
      options.log_sum_exp = sums[i].data();
      calls.push_back({queries[i], outs[i], options});
    }
    for (const bool threads : {false, true}) {
      if (threads) cache.set_executor(executor);
      for (auto* all : {&outs, &sums})
        for (Matrix<float>& one : *all) one.setConstant(-7);
      cache.attend(0, calls);
      for (std::size_t i = 0; i < 7; ++i) {
        EXPECT_TRUE(same_bytes<float>(outs[i], expected[i])) << "sequence " << i;
        EXPECT_TRUE(same_bytes<float>(sums[i], expected_sums[i])) << "sequence " << i;
      }
    }
  }
}

// Few rows over many tokens are cut into segments, also where nothing is taken over codes.
TEST(AttentionShape, SeesManyTokensWhateverTheyAreReadAs) {
  constexpr Index tokens = 3300;
  const auto queries = random_matrix<float>(tokens, 4 * 24, 1);
  const auto keys = correlated_matrix<float>(tokens, 2 * 24, 2);
  Matrix<float> values(tokens, 2 * 16);
  values << keys.leftCols(16), keys.middleCols(24, 16);
  for (const bool in_keys : {true, false})
    for (const Index window : {0, 2500}) {
      ModelShape shape{1, 4, 2, 24};
      shape.value_dim = 16;
      shape.values_in_keys = in_keys;
      shape.window = window;
      shape.sink_tokens = window > 0 ? 3 : 0;
      shape.sink_logits = {1, 0, -1, 2};
      Config config = Config::recommended(4);
      if (!in_keys) config.arithmetic = Arithmetic::dequantized;
      SQuatCache<float, 4> cache(shape, config);
      cache.update(0, Queries(queries), Keys(keys), Values(values.leftCols(in_keys ? 0 : 32)));
      cache.flush(0);
      Matrix<float> held_keys = keys, held_values = values;
      held_keys.bottomRows(tokens - cache.first(0)) = cache.keys(0);
      held_values.bottomRows(tokens - cache.first(0)) = cache.values(0);
      for (const Index rows : {1, 5}) {
        Attended<float> actual(shape, rows);
        CallOptions options;
        options.log_sum_exp = actual.log_sum_exp.data();
        cache.attend(0, queries.bottomRows(rows), actual.out, options);
        Matrix<double> log;
        const Matrix<double> expected = dense_attention<float>(shape, queries.bottomRows(rows),
                                                               held_keys, held_values, {}, &log);
        expect_near(actual.out, expected, 1e-4);
        expect_near(actual.log_sum_exp, log, 1e-4);
      }
    }
}

TEST(AttendSequences, NothingIsComputedWhereOneIsRefused) {
  const ModelShape model{1, 4, 2, 16};
  const auto cache = of_sequences(model, Config{}, 2);
  const Matrix<float> queries = random_matrix<float>(1, 4 * 16, 1);
  Matrix<float> out = Matrix<float>::Constant(1, 4 * 16, -7), wide(1, 5 * 16);
  CallOptions second;
  second.sequence = 1;
  EXPECT_ERROR(cache.attend(0, std::vector<SequenceQueries<float>>{}), "there are no sequences");
  EXPECT_ERROR(cache.attend(0, {{queries, out, {}}, {queries, wide, second}}), "out is [1, 80]");
  second.sequence = 2;
  EXPECT_ERROR(cache.attend(0, {{queries, out, {}}, {queries, out, second}}),
               "options.sequence is 2");
  EXPECT_TRUE((out.array() == -7).all());
}

// Each logit joins once, in the part that holds the query's own token; distances go on.
TEST(SinkLogits, CountOnceInPartsOfASequence) {
  ModelShape model{1, 4, 2, 16};
  model.sink_logits = {1, -2, 3, 0.5};
  model.alibi_slopes = {0.5, 0.1, 0.02, 0.01};
  const auto queries = random_matrix<float>(150, 4 * 16, 1);
  const auto keys = random_matrix<float>(150, 2 * 16, 2);
  const auto values = random_matrix<float>(150, 2 * 16, 3);
  Config config;
  config.residual_length = 256;  // nothing is quantized
  SQuatCache<float, 4> older(model, config), newer(model, config);
  older.update(0, Queries(queries.topRows(100)), Keys(keys.topRows(100)),
               Values(values.topRows(100)));
  newer.update(0, Queries(queries.bottomRows(50)), Keys(keys.bottomRows(50)),
               Values(values.bottomRows(50)));
  const Matrix<float> rows = queries.bottomRows(3);
  MergedAttention<float> merged(model, 3);
  for (const auto& [cache, position] : {std::pair{&older, Index{147}}, {&newer, Index{-1}}}) {
    Attended<float> part(model, 3);
    CallOptions options;
    options.position = position;
    options.log_sum_exp = part.log_sum_exp.data();
    cache->attend(0, rows, part.out, options);
    merged.add(part.out, part.log_sum_exp);
  }
  Attended<float> all(model, 3);
  merged.write(all.out, all.log_sum_exp.data());
  Matrix<double> log;
  const Matrix<double> expected = dense_attention<float>(model, rows, keys, values, {}, &log);
  expect_near(all.out, expected, 1e-4);
  expect_near(all.log_sum_exp, log, 1e-4);
}

TEST(LayersThatShare, ReadWhatAnEarlierOneHolds) {
  constexpr Index d = 20;
  ModelShape model{3, 4, 2, d};
  model.by_layer.assign(3, model);
  model.by_layer[2].kv_layer = 0;
  model.by_layer[2].window = 50;
  model.by_layer[2].query_heads = 6;
  SQuatCache<float, 4> cache(model, Config::recommended(4), 2);
  ModelShape plain{1, 6, 2, d};
  plain.window = 50;
  const Index tokens = 200;
  const auto queries = random_matrix<float>(tokens, 4 * d, 1);
  const auto keys = random_matrix<float>(tokens, 2 * d, 2);
  const auto values = random_matrix<float>(tokens, 2 * d, 3);
  for (const Index layer : {0, 1}) {
    cache.update(layer, Queries(queries), Keys(keys), Values(values));
    cache.flush(layer);
  }
  const auto wide = random_matrix<float>(2, 6 * d, 4);
  Matrix<float> out(2, 6 * d);
  const auto expect_layer_2 = [&](Index sequence, Index size) {
    CallOptions options;
    options.sequence = sequence;
    cache.attend(2, wide, out, options);
    const Matrix<double> expected =
        dense_attention<float>(plain, wide, cache.keys(0, {sequence}), cache.values(0, {sequence}));
    EXPECT_LE((out.cast<double>() - expected).norm(), 0.02 * expected.norm());
    EXPECT_EQ(cache.size(2, {sequence}), size);
    EXPECT_TRUE(same_bytes<float>(cache.keys(2, {sequence}), cache.keys(0, {sequence})));
  };
  expect_layer_2(0, tokens);
  cache.fork(0, 1);
  cache.truncate(150);
  expect_layer_2(0, 150);
  expect_layer_2(1, tokens);
  std::stringstream file;
  cache.save(file);
  SQuatCache<float, 4> loaded(model, Config::recommended(4), 2);
  loaded.load(file);
  EXPECT_TRUE(same_bytes<float>(loaded.keys(2), cache.keys(2)));
  ModelShape apart = model;
  apart.by_layer[2].kv_layer = -1;
  SQuatCache<float, 4> others(apart, Config::recommended(4), 2);
  file.clear();
  file.seekg(0);
  EXPECT_ERROR(others.load(file), "shape.kv_layer = -1, -1, 0", "the cache has -1");
  EXPECT_ERROR(
      cache.update(2, Queries(random_matrix<float>(200, 6 * d, 5)), Keys(keys), Values(values)),
      "layer 2 reads the keys and values of layer 0");
  EXPECT_ERROR(cache.flush(2), "layer 2 reads");

  const auto check_with = [&](auto change) {
    ModelShape wrong = model;
    change(wrong);
    SQuatCache<float, 4> refused(wrong);
  };
  EXPECT_ERROR(check_with([](auto& s) { s.by_layer[1].kv_layer = 2; }), "by_layer[1].kv_layer is 2",
               "an earlier layer");
  EXPECT_ERROR(check_with([](auto& s) { s.by_layer[2].head_dim = 24; }), "the same kv_heads");
  EXPECT_ERROR(check_with([](auto& s) { s.by_layer[0].window = 20; }),
               "forgets what the layer sees", "window is 50, and 20 there");
  EXPECT_ERROR(check_with([](auto& s) {
                 s.by_layer.clear();
                 s.kv_layer = 0;
               }),
               "shape.kv_layer is 0", "must be -1");
}

TEST(AttentionShape, HeadsHaveAnyWidth) {
  unsigned seed = 1000;
  for (const Index head_dim : {1, 3, 20, 36, 80, 100, 112, 127, 575})
    for (const bool exact : {true, false}) converse_in_shape(seed++, exact, head_dim);
}

// Channels that a layer adds to its heads count for nothing: not in scores, not in the metric.
TEST(AttentionShape, HeadsOfAnyWidthAreThoseOfMoreChannelsWithZeros) {
  constexpr Index tokens = 300, d = 36, wide_d = 40;
  const auto widened = [](const Matrix<float>& rows) {
    Matrix<float> wide = Matrix<float>::Zero(rows.rows(), rows.cols() / d * wide_d);
    for (Index head = 0; head < rows.cols() / d; ++head)
      wide.middleCols(head * wide_d, d) = rows.middleCols(head * d, d);
    return wide;
  };
  const Matrix<float> queries = correlated_matrix<float>(tokens, 4 * d, 1),
                      keys = correlated_matrix<float>(tokens, 2 * d, 2),
                      values = correlated_matrix<float>(tokens, 2 * d, 3);
  ModelShape shape{1, 4, 2, d}, wide_shape{1, 4, 2, wide_d};
  wide_shape.softmax_scale = shape.scale();
  for (const bool calibrated : {false, true}) {
    Config config = Config::recommended(3), wide_config = config;
    wide_config.squat_lambda *= static_cast<double>(d) / wide_d;  // energy is a mean of channels
    SQuatCache<float, 2> cache(shape, config), wide(wide_shape, wide_config);
    if (calibrated) {
      QueryMoments moments(shape), wide_moments(wide_shape);
      moments.add<float>(0, queries);
      wide_moments.add<float>(0, widened(queries));
      cache.calibrate(moments);
      wide.calibrate(wide_moments);
    }
    Matrix<float> out(tokens, 4 * d), wide_out(tokens, 4 * wide_d);
    cache.attention(0, Queries(queries), Keys(keys), Values(values), out);
    wide.attention(0, Queries(widened(queries)), Keys(widened(keys)), Values(widened(values)),
                   wide_out);
    for (Index head = 0; head < 4; ++head)
      EXPECT_TRUE(
          same_bytes<float>(out.middleCols(head * d, d), wide_out.middleCols(head * wide_d, d)));
    for (Index head = 0; head < 2; ++head) {
      EXPECT_TRUE(same_bytes<float>(cache.keys(0).middleCols(head * d, d),
                                    wide.keys(0).middleCols(head * wide_d, d)));
      EXPECT_TRUE(same_bytes<float>(cache.values(0).middleCols(head * d, d),
                                    wide.values(0).middleCols(head * wide_d, d)));
    }
    EXPECT_EQ(cache.memory().codes, wide.memory().codes);
  }
}

TEST(AttentionShape, ExactArithmeticEqualsDenseAttention) {
  for (unsigned seed = 0; seed < 80 && !::testing::Test::HasFailure(); ++seed)
    converse_in_shape(seed, true);
}

TEST(AttentionShape, FastArithmeticIsWithinItsBound) {
  for (unsigned seed = 500; seed < 580 && !::testing::Test::HasFailure(); ++seed)
    converse_in_shape(seed, false);
}

}  // namespace
}  // namespace squat::testing
