// Layers whose queries see a window of tokens, against dense attention and a cache without windows.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "attended.hpp"
#include "dense_attention.hpp"
#include "drawn_config.hpp"
#include "expect_error.hpp"
#include "rotated.hpp"
#include "small_cache.hpp"
#include "token_history.hpp"

namespace squat::testing {
namespace {

ModelShape with_window(Index window, Index sink_tokens = 0) {
  ModelShape windowed = shape;
  windowed.window = window;
  windowed.sink_tokens = sink_tokens;
  return windowed;
}

/// The same calls on a cache whose layer has a window and on one that sees all.
template <class Scalar>
class Twins {
 public:
  Twins(const ModelShape& model, const Config& config)
      : cache(model, config),
        twin(unlimited(model), config),
        model_(model),
        config_(config),
        history_(model) {}

  /// New tokens, a few of them padding if `padded`.
  void update(Index tokens, bool padded = false) {
    std::vector<std::uint8_t> mask;
    for (Index t = size(); t < size() + tokens; ++t)
      mask.push_back(!(padded && (t % 11 == 3 || t < 2)));
    history_.append(
        mask, [&](Index columns) { return correlated_matrix<Scalar>(tokens, columns, ++seed_); });
    CallOptions options;
    options.mask = history_.newest_mask(tokens);
    for (auto* one : {&cache, &twin})
      one->update(0, Queries(history_.queries.bottomRows(tokens)),
                  Keys(history_.keys.bottomRows(tokens)),
                  Values(history_.values.bottomRows(tokens)), options);
  }

  void flush() {
    cache.flush(0);
    twin.flush(0);
  }

  void truncate(Index size) {
    cache.truncate(size);
    twin.truncate(size);
    history_.truncate(size);
  }

  Index size() const { return history_.size(); }
  /// To what truncate() can cut, beside nothing.
  Index least_size() const { return cache.first(0) == 0 ? 0 : cache.first(0) + model_.window; }
  /// How many of the newest rows can attend.
  Index most_rows() const { return cache.first(0) == 0 ? size() : size() - least_size() + 1; }

  /// What is held is what the twin holds.
  void expect_same_tokens() const {
    const Index first = cache.first(0);
    ASSERT_EQ(cache.size(0), size());
    ASSERT_LE(least_size(), size());
    EXPECT_TRUE(same_bytes<Scalar>(cache.keys(0), twin.keys(0).bottomRows(size() - first)));
    EXPECT_TRUE(same_bytes<Scalar>(cache.values(0), twin.values(0).bottomRows(size() - first)));
  }

  /// attend() of `rows` queries, those of the newest tokens or from `position` on.
  void expect_attention(Index rows, Index position = -1) const {
    SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(size()) + ", first " +
                 std::to_string(cache.first(0)) + ", position " + std::to_string(position));
    const Matrix<Scalar> queries = history_.queries.bottomRows(rows);
    const Matrix<Scalar> held_keys = twin.keys(0), held_values = twin.values(0);
    const Index first = position == -1 ? size() - rows : position;
    Matrix<double> expected = Matrix<double>::Zero(rows, queries.cols()), original = expected;
    Matrix<double> expected_log =
        Matrix<double>::Constant(rows, model_.query_heads, minus_infinity);
    for (Index i = 0; i < rows; ++i) {
      const Index end = std::min(first + i + 1, size());
      const std::vector<std::uint8_t> seen = seen_from(first + i);
      const Index newest = newest_of(seen);
      if (newest == 0 || (end == first + i + 1 && newest != end)) continue;  // padding
      const auto dense = [&](const auto& keys, const auto& values, Matrix<double>* log) {
        return dense_attention<Scalar>(model_, queries.row(i), keys.topRows(newest),
                                       values.topRows(newest), seen, log);
      };
      Matrix<double> log;
      expected.row(i) = dense(held_keys, held_values, &log);
      original.row(i) = dense(history_.keys, history_.values, nullptr);
      expected_log.row(i) = log;
    }

    Attended<Scalar> actual(model_, rows);
    CallOptions options;
    options.position = position;
    options.log_sum_exp = actual.log_sum_exp.data();
    cache.attend(0, queries, actual.out, options);
    expect_near(actual.log_sum_exp, expected_log, 2e-2);
    const double lost = (expected - original).norm();
    if (config_.arithmetic == Arithmetic::fast &&
        (actual.out.template cast<double>() - expected).norm() <= 0.1 * lost)
      return;
    expect_near(actual.out, expected, 200 * roundoff<Scalar>() * expected.norm());
  }

  SQuatCache<Scalar, 2> cache, twin;

 private:
  static ModelShape unlimited(ModelShape model) {
    model.window = 0;
    return model;
  }

  /// Which tokens a query at `position` sees.
  std::vector<std::uint8_t> seen_from(Index position) const {
    std::vector<std::uint8_t> seen(history_.valid.size(), 0);
    Index sinks = model_.sink_tokens;
    for (Index t = 0; t < std::min(size(), position + 1); ++t) {
      const std::size_t i = static_cast<std::size_t>(t);
      const bool is_sink = history_.valid[i] && sinks-- > 0;
      seen[i] = history_.valid[i] && (is_sink || t > position - model_.window);
    }
    return seen;
  }

  static Index newest_of(const std::vector<std::uint8_t>& seen) {
    Index end = static_cast<Index>(seen.size());
    while (end > 0 && seen[static_cast<std::size_t>(end - 1)] == 0) --end;
    return end;
  }

  ModelShape model_;
  Config config_;
  TokenHistory<Scalar> history_;
  unsigned seed_ = 0;
};

/// A prompt, attention over it before it is quantized, decoding and another chunk.
template <class Scalar>
void converse(const ModelShape& model, const Config& config, bool padded) {
  SCOPED_TRACE("window " + std::to_string(model.window) + ", sinks " +
               std::to_string(model.sink_tokens) + ", full-precision tokens " +
               std::to_string(config.full_precision_tokens) + (padded ? ", padded" : ""));
  Twins<Scalar> twins(model, config);
  twins.update(230, padded);
  for (const Index rows : {1, 8, 230}) twins.expect_attention(rows);
  twins.flush();
  twins.expect_same_tokens();
  for (const Index rows : {1, 3, 33}) twins.expect_attention(std::min(rows, twins.most_rows()));
  for (int token = 0; token < 75; ++token) {
    twins.update(1, padded);
    if (token % 2 == 0) twins.flush();
    twins.expect_same_tokens();
    if (token % 8 == 0) twins.expect_attention(1 + token % 3);
  }
  twins.update(90, padded);
  for (const Index rows : {1, 2, 90}) twins.expect_attention(rows);
  twins.flush();
  twins.expect_same_tokens();
  for (const Index beyond : {0, 1, 40, 100000}) {
    twins.expect_attention(1, twins.size() + beyond);
    twins.expect_attention(30, twins.size() + beyond);
  }
}

Config configured(Arithmetic arithmetic, Index full_precision_tokens) {
  Config config = strong_feedback();
  config.arithmetic = arithmetic;
  config.full_precision_tokens = full_precision_tokens;
  return config;
}

TEST(Window, EqualsDenseAttention) {
  const int value_bits[] = {1, 2, 3, 4, 8};
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::dequantized}) {
    int widths = 0;
    for (const Index window : {1, 31, 32, 33, 100, 300, 1000000})
      for (const Index full_precision_tokens : {0, 1, 40}) {
        Config config = configured(arithmetic, full_precision_tokens);
        config.key_bits = 1 + widths % 8;
        config.value_bits = value_bits[widths++ % 5];
        const Index sinks[] = {0, full_precision_tokens, 5};
        converse<float>(with_window(window, sinks[widths % 3]), config, full_precision_tokens == 1);
      }
  }
}

TEST(Window, EqualsDenseAttentionWithOtherSettings) {
  for (const bool padded : {true, false}) {
    converse<float>(with_window(50), Config::recommended(), padded);
    converse<float>(with_window(50, 4), Config::recommended(), padded);
    converse<double>(with_window(50, 2), configured(Arithmetic::fast, 3), padded);
    for (const Index residual_length : {0, 21}) {
      Config per_token = configured(Arithmetic::fast, 1);
      per_token.key_scales = KeyScales::per_token;
      per_token.residual_length = residual_length;
      per_token.rotate_keys = padded;
      converse<float>(with_window(50, 3), per_token, padded);
    }
  }
}

/// How far attention with a window is off plain dense attention over what went in, relative.
double error_of_storage(const Config& config, bool all_in_residual) {
  ModelShape model{1, 4, 2, 64};
  model.window = 70;
  const Index tokens = all_in_residual ? config.residual_length - 1 : 300;
  const auto keys = random_matrix<float>(tokens, 2 * 64, 1);
  const auto values = random_matrix<float>(tokens, 2 * 64, 2);
  const auto queries = random_matrix<float>(tokens, 4 * 64, 3);
  SQuatCache<float, 8> cache(model, config);
  cache.update(0, Queries(queries), Keys(keys), Values(values));
  cache.flush(0);
  const Rows newest = queries.bottomRows(1);
  Rows out(1, 4 * 64);
  cache.attend(0, newest, out);
  const Matrix<double> expected = dense_attention<float>(model, newest, keys, values);
  return (out.cast<double>() - expected).norm() / expected.norm();
}

TEST(Window, StorageNeverChangesWhatAQuerySees) {
  for (unsigned seed = 0; seed < 15; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Config config = Draw(seed).config();
    config.arithmetic = Arithmetic::dequantized;
    config.key_bits = config.value_bits = 8;
    config.residual_bits = 16;
    EXPECT_LE(error_of_storage(config, false), 1e-2);
    config.scale_bits = 32;
    config.residual_bits = 0;
    config.residual_length = 256;
    EXPECT_LE(error_of_storage(config, true), 1e-4);
  }
  EXPECT_LE(error_of_storage(Config::recommended(8), false), 1e-2);
}

TEST(Window, HoldsNoMoreThanItsTokens) {
  class CountingExecutor : public SerialExecutor {
   public:
    void run(Index tasks, const std::function<void(Index)>& task) override {
      most_tasks = std::max(most_tasks, tasks);
      SerialExecutor::run(tasks, task);
    }
    Index most_tasks = 0;
  } executor;
  const Tokens tokens(500, 1);
  Cache cache(with_window(200));
  cache.set_executor(executor);
  Index early = 0;
  for (Index size = 500; size <= 40000; size += 500) {
    update(cache, tokens);
    attend(cache, tokens.queries.bottomRows(1));
    cache.flush(0);
    const Index held = size - cache.first(0);
    EXPECT_GE(held, 200 + 32);
    EXPECT_LT(held, 200 + 32 + 32);
    EXPECT_EQ(cache.keys(0).rows(), held);
    if (size == 5000) early = cache.memory().total();
  }
  EXPECT_LE(cache.memory().total(), early + early / 4);
  // The tokens of the window are in one range.
  EXPECT_EQ(executor.most_tasks, shape.kv_heads);
  cache.truncate(0);
  EXPECT_EQ(cache.first(0), 0);
  EXPECT_EQ(cache.memory().codes + cache.memory().reserved, 0);
}

TEST(Window, OtherLayersSeeAll) {
  const Tokens tokens(300, 1);
  ModelShape mixed{3, 4, 2, 16}, plain = mixed;
  mixed.by_layer.assign(3, mixed);
  mixed.by_layer[1].window = 40;
  Cache cache(mixed), unlimited(plain);
  for (Index layer = 0; layer < 3; ++layer)
    for (Cache* one : {&cache, &unlimited}) {
      one->update(layer, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values));
      one->flush(layer);
    }
  for (Index layer = 0; layer < 3; ++layer) {
    Rows out(1, query_width), expected(1, query_width);
    cache.attend(layer, tokens.queries.bottomRows(1), out);
    unlimited.attend(layer, tokens.queries.bottomRows(1), expected);
    EXPECT_EQ(same(out, expected), layer != 1);
    EXPECT_EQ(cache.first(layer) > 0, layer == 1);
  }
  EXPECT_ERROR(cache.truncate(200), "size is 200", "layer 1", "token 199", "at least 264");
  EXPECT_EQ(cache.size(0), 300);
}

TEST(Window, CallsAtRandomLeaveWhatTheTwinHolds) {
  for (unsigned seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto below = [&](Index end) {
      return static_cast<Index>(random() % static_cast<unsigned>(end));
    };
    Config config =
        configured(below(2) == 0 ? Arithmetic::fast : Arithmetic::dequantized, below(4));
    config.residual_length = 32 * (1 + below(3));
    if (below(3) == 0) {
      config.key_scales = KeyScales::per_token;
      config.residual_length = below(40);
    }
    const Index window = 1 + below(150);
    Twins<float> twins(with_window(window, below(4)), config);
    Index longest = 0;  // at a flush
    for (int call = 0; call < 60; ++call) {
      const Index choice = below(10);
      if (choice < 8) longest = std::max(longest, twins.size());
      if (choice < 6) {
        twins.update(1 + below(choice < 4 ? 20 : 90), below(3) == 0);
      } else if (choice < 8) {
        twins.flush();
      } else if (below(10) == 0) {
        twins.truncate(0);
        longest = 0;
      } else {
        const Index back = below(config.residual_length + 1);
        twins.truncate(std::max(twins.size() - back, twins.least_size()));
      }
      ASSERT_LE(twins.least_size(), std::max<Index>(longest - config.residual_length, 0));
      twins.expect_same_tokens();
      if (twins.size() == 0) continue;
      twins.expect_attention(1);
      if (call % 5 == 0) twins.expect_attention(1 + below(twins.most_rows()));
      if (::testing::Test::HasFailure()) FAIL() << "after call " << call;
    }
  }
}

TEST(Window, RefusesWhatItHasDropped) {
  const Tokens tokens(300, 1);
  Cache cache(with_window(40));
  update(cache, tokens);
  cache.flush(0);
  ASSERT_EQ(cache.first(0), 224);  // 300 - 40 - 32, whole blocks
  const Rows keys = cache.keys(0);
  EXPECT_ERROR(cache.truncate(263), "size is 263", "dropped what token 262 sees", "at least 264");
  EXPECT_ERROR(cache.truncate(1), "size is 1", "be 0, or at least 264");
  Rows out = tokens.queries;
  EXPECT_ERROR(cache.attend(0, tokens.queries.bottomRows(38), out.bottomRows(38)),
               "begin at position 262", "has dropped what they see", "263 or later");
  CallOptions at;
  at.position = 100;
  EXPECT_ERROR(cache.attend(0, tokens.queries.topRows(1), out.topRows(1), at),
               "begin at position 100", "263 or later");
  cache.attend(0, tokens.queries.bottomRows(37), out.bottomRows(37));
  EXPECT_TRUE(same(cache.keys(0), keys));
  cache.truncate(264);
  EXPECT_TRUE(same(cache.keys(0), keys.topRows(40)));
  attend(cache, tokens.queries.topRows(1));
}

TEST(Window, ShapesAreChecked) {
  ModelShape model{2, 4, 2, 16};
  model.window = -1;
  EXPECT_ERROR(Cache{model}, "shape.window is -1", "must be 1 to");
  model.window = Index{1} << 49;
  EXPECT_ERROR(Cache{model}, "shape.window is 562949953421312", "or 0 for all");
  model.window = 0;
  model.by_layer.assign(1, model);
  EXPECT_ERROR(Cache{model}, "shape.by_layer has 1 entries", "each of the 2 layers");
  model.by_layer.assign(2, model);
  model.by_layer[1].window = -2;
  EXPECT_ERROR(Cache{model}, "shape.by_layer[1].window is -2");
}

TEST(Window, TurnsKeysToTheirPositions) {
  Tokens tokens(200, 1);
  tokens.queries *= 0.05f;  // no weight hangs on a last digit
  for (const Index full_precision_tokens : {0, 3}) {
    Config config = configured(Arithmetic::fast, full_precision_tokens);
    config.key_bits = config.value_bits = 8;
    ModelShape turning = with_window(60);
    turning.rope.pairing = RopePairing::halves;
    Cache cache(turning, config), plain(with_window(60), config);
    const Rows keys = rotated(turning, tokens.keys).cast<float>();
    const Rows queries = rotated(turning, tokens.queries).cast<float>();
    Rows out(200, query_width), expected(200, query_width);
    cache.attention(0, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values), out);
    plain.attention(0, Queries(queries), Keys(keys), Values(tokens.values), expected);
    EXPECT_LE((out - expected).norm(), 1e-4f * expected.norm());
    ASSERT_GT(cache.first(0), 60);
    const Rows newest = attend(cache, tokens.queries.bottomRows(2));
    const Rows newest_expected = attend(plain, queries.bottomRows(2));
    EXPECT_LE((newest - newest_expected).norm(), 0.02f * newest_expected.norm());
  }
}

}  // namespace
}  // namespace squat::testing
