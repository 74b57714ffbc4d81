// A conversation with a cache of any kind of attention, held to dense attention.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <sstream>

#include <squat/squat.hpp>
#include "attended.hpp"
#include "dense_attention.hpp"
#include "drawn_config.hpp"
#include "random_matrix.hpp"
#include "rotated.hpp"
#include "same_bytes.hpp"
#include "token_history.hpp"

namespace squat::testing {

/// A layer of any kind, without a rope.
inline LayerShape drawn_shape(Draw& draw) {
  LayerShape shape = draw.shape();
  shape.value_dim = draw.of<Index>({0, 0, 8, 20, 48, 61});
  shape.values_in_keys = shape.value_width() <= shape.head_dim && draw.of({0, 0, 1}) == 1;
  shape.softmax_scale = draw.of({0.0, 0.3});
  const int limit = draw.of({0, 1, 2});
  if (limit == 1) shape.window = draw.of<Index>({1, 20, 50, 120});
  if (limit == 2) shape.chunk = draw.of<Index>({1, 33, 64, 100});
  shape.sink_tokens = draw.of<Index>({0, 0, 3, 40});
  shape.softcap = draw.of({0.0, 5.0});
  const std::size_t heads = static_cast<std::size_t>(shape.query_heads);
  if (draw.of({true, false}))
    for (std::size_t head = 0; head < heads; ++head)
      shape.sink_logits.push_back(draw.of({-3.0, 0.5, 4.0}));
  if (draw.of({true, false}))
    for (std::size_t head = 0; head < heads; ++head)
      shape.alibi_slopes.push_back(draw.of({0.5, 0.01, 0.1}));
  return shape;
}

/// For the messages of drawn tests.
inline std::string described(unsigned seed, const LayerShape& shape, const Config& config) {
  std::ostringstream out;
  out << "seed " << seed << ", heads " << shape.query_heads << "/" << shape.kv_heads << " of "
      << shape.head_dim << " and " << shape.value_dim << ", values in keys " << shape.values_in_keys
      << ", window " << shape.window << ", chunk " << shape.chunk << ", sinks " << shape.sink_tokens
      << ", cap " << shape.softcap << ", logits " << shape.sink_logits.size() << ", slopes "
      << shape.alibi_slopes.size() << ", pairing " << static_cast<int>(shape.rope.pairing)
      << ", residual " << config.residual_length << ", blocks of " << config.token_group_size;
  return out.str();
}

/// A conversation with a cache and what went in.
class ShapedConversation {
 public:
  ShapedConversation(const LayerShape& layer, const Config& config, unsigned seed)
      : layer_(layer),
        cache_(model(layer), config, 2),
        coming_{random_matrix<float>(most, layer.query_heads * layer.head_dim, seed + 1),
                correlated_matrix<float>(most, layer.kv_heads * layer.head_dim, seed + 2),
                random_matrix<float>(most, layer.kv_heads * layer.value_width(), seed + 3)},
        history_(layer) {
    const Index width = layer.value_width();
    for (Index head = 0; head < layer.kv_heads && layer.values_in_keys; ++head)
      coming_[2].middleCols(head * width, width) =
          coming_[1].middleCols(head * layer.head_dim, width);
  }

  Index size() const { return history_.size(); }
  const SQuatCache<float, 8>& cache() const { return cache_; }

  /// Takes tokens out, none of them the last one.
  void erase(const TokenRange& range) {
    SCOPED_TRACE(::testing::Message()
                 << "erase [" << range.begin << ", " << range.end << ") of " << size());
    TokenHistory<float> expected = held();
    cache_.erase(range);
    expected.erase(range);
    history_.erase(range);
    expect_held(expected, false);
  }

  /// Moves tokens over others that were erased. Returns false where a window does not allow it.
  bool shift(const TokenRange& range, Index delta) {
    SCOPED_TRACE(::testing::Message() << "shift [" << range.begin << ", " << range.end << ") of "
                                      << size() << " by " << delta);
    TokenHistory<float> expected = held();
    try {
      cache_.shift(range, delta);
    } catch (const Error& error) {
      EXPECT_GT(layer_.window + layer_.chunk, 0);
      EXPECT_NE(std::string(error.what()).find("has dropped what its newest token would see"),
                std::string::npos)
          << error.what();
      expect_held(expected, false);
      return false;
    }
    const auto turn = [&](const Matrix<float>& row) {
      return Matrix<float>(rotated(cache_.shape().layer(0), row, delta).cast<float>());
    };
    expected.shift(range, delta, turn);
    history_.shift(range, delta, turn);
    expect_held(expected, true);
    return true;
  }

  /// Goes on in another sequence, or from a file.
  void move_on(Draw& draw) {
    const Matrix<float> keys = cache_.keys(0), values = cache_.values(0);
    if (draw.of({0, 1}) == 0) {
      std::stringstream file, again;
      cache_.save(file);
      cache_.clear();
      cache_.load(file);
      cache_.save(again);
      EXPECT_TRUE(file.str() == again.str());
    } else {
      cache_.fork(0, 1);
      cache_.erase({size() / 3, size() - 1});
      cache_.fork(1, 0);
      cache_.truncate(0, {1});
    }
    EXPECT_TRUE(same_bytes<float>(cache_.keys(0), keys));
    EXPECT_TRUE(same_bytes<float>(cache_.values(0), values));
  }

  /// attention() of new tokens, the first `padding` of them padding.
  void attention(Index tokens, Index padding, Draw& draw) {
    cache_.flush(0);  // nothing is left to pack, so that all that comes is in full precision
    const Matrix<float> queries = append(tokens, padding);
    const Index first_held = cache_.first(0);
    CallOptions options = sight(tokens, size(), first_held, draw);
    options.mask = history_.newest_mask(tokens);
    Attended<float> actual(layer_, tokens);
    options.log_sum_exp = actual.log_sum_exp.data();
    const Matrix<float> keys = history_.keys.bottomRows(tokens),
                        values = history_.values.bottomRows(tokens).leftCols(
                            layer_.kv_heads * layer_.own_value_width());
    const Matrix<float> stored_keys = stored(history_.keys, cache_.keys(0)),
                        stored_values = stored(history_.values, cache_.values(0));
    Matrix<float> received = want_received(options, draw);
    cache_.attention(0, Queries(queries), Keys(keys), Values(values), actual.out, options);
    expect(queries, stored_keys, stored_values, options, actual, received);
  }

  /// attend() of the newest `rows` tokens, or from `position` on.
  void attend(Index rows, Index position, Draw& draw) {
    const Matrix<float> queries = history_.queries.bottomRows(rows);
    const Index first_held = cache_.first(0);
    CallOptions options;
    options.position = position;
    if (position == -1) options = sight(rows, size(), first_held, draw);
    Attended<float> actual(layer_, rows);
    options.log_sum_exp = actual.log_sum_exp.data();
    Matrix<float> received = want_received(options, draw);
    cache_.attend(0, queries, actual.out, options);
    expect(queries, stored(history_.keys, cache_.keys(0)),
           stored(history_.values, cache_.values(0)), options, actual, received);
  }

 private:
  static constexpr Index most = 600;  // tokens

  static ModelShape model(const LayerShape& layer) {
    ModelShape shape{1, layer.query_heads, layer.kv_heads, layer.head_dim};
    shape.by_layer.assign(1, layer);
    return shape;
  }

  /// History with what the cache holds in place of what came.
  TokenHistory<float> held() const {
    TokenHistory<float> all = history_;
    all.keys = stored(history_.keys, cache_.keys(0));
    all.values = stored(history_.values, cache_.values(0));
    return all;
  }

  /// That the cache holds the same values, and the same keys but for how they were `turned`.
  void expect_held(const TokenHistory<float>& expected, bool turned) const {
    ASSERT_EQ(cache_.size(0), expected.size());
    const Index first = cache_.first(0), count = expected.size() - first;
    const Matrix<float> keys = expected.keys.bottomRows(count), found = cache_.keys(0);
    EXPECT_TRUE(same_bytes<float>(cache_.values(0), expected.values.bottomRows(count)));
    if (turned)
      EXPECT_LE((found - keys).norm(), 1e-5 * keys.norm());
    else
      EXPECT_TRUE(same_bytes<float>(found, keys));
  }

  Matrix<float> append(Index tokens, Index padding) {
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(tokens), 1);
    std::fill_n(mask.begin(), padding, std::uint8_t{0});
    auto coming = coming_.begin();
    history_.append(mask,
                    [&](Index) -> Matrix<float> { return (coming++)->middleRows(came_, tokens); });
    came_ += tokens;
    return history_.queries.bottomRows(tokens);
  }

  /// Nothing, ranges, or ranges and a tree.
  CallOptions sight(Index rows, Index size, Index first_held, Draw& draw) {
    CallOptions options;
    if (draw.of({0, 1}) == 0) return options;
    ranges_.clear();
    // What a flush is about to drop cannot be asked for.
    const Index begin = std::max(first_held, layer_.window + layer_.chunk == 0 ? 0 : size - rows);
    for (Index row = 0; row < rows; ++row) {
      const Index from =
          begin + static_cast<Index>(draw.of({0.0, 0.3, 0.9}) * static_cast<double>(size - begin));
      ranges_.push_back({from, std::min(size, from + draw.of<Index>({0, 1, 7, 60, 500}))});
    }
    options.visible = ranges_;
    if (draw.of({0, 1}) == 0) return options;
    const Index tokens = std::min(rows, size - first_held);
    tree_.clear();
    for (Index i = 0; i < rows * tokens; ++i) tree_.push_back(draw.of<std::uint8_t>({0, 1, 1}));
    options.tree = TreeMask(tree_.data(), rows, tokens);
    return options;
  }

  /// Asks for what tokens receive, or not.
  Matrix<float> want_received(CallOptions& options, Draw& draw) const {
    Matrix<float> received;
    if (draw.of({0, 1}) == 0) return received;
    received.setConstant(layer_.kv_heads, size(), -7);
    options.received = received.data();
    return received;
  }

  /// What attention sees: tokens that were dropped are seen as sinks alone, which are as they came.
  Matrix<float> stored(Matrix<float> all, const Matrix<float>& held) const {
    all.middleRows(cache_.first(0), held.rows()) = held;
    return all;
  }

  void expect(const Matrix<float>& queries, const Matrix<float>& keys, const Matrix<float>& values,
              const CallOptions& options, const Attended<float>& actual,
              const Matrix<float>& received) const {
    Matrix<double> log, expected_received;
    const Matrix<double> expected =
        dense_attention<float>(layer_, queries, keys, values, history_.valid, &log, options,
                               &expected_received, history_.rank);
    const Matrix<double> full =
        dense_attention<float>(layer_, queries, history_.keys, history_.values, history_.valid,
                               nullptr, options, nullptr, history_.rank);
    const double rounding = 1e-5 * std::max(history_.values.template cast<double>().norm(), 1.0);
    const bool exact = cache_.config().arithmetic == Arithmetic::dequantized;
    const double allowed =
        exact ? rounding : std::max(0.15 * (expected - full).norm(), 0.02 * expected.norm());
    EXPECT_LE((actual.out.template cast<double>() - expected).norm(), allowed + rounding);
    expect_near(actual.log_sum_exp, log, exact ? 1e-3 : 0.2);
    if (received.size() == 0) return;
    EXPECT_LE((received.cast<double>() - expected_received).norm(),
              (exact ? 1e-3 : 0.1) * (1 + expected_received.norm()));
  }

  LayerShape layer_;
  SQuatCache<float, 8> cache_;
  std::array<Matrix<float>, 3> coming_;  // queries, keys and values
  Index came_ = 0;                       // of them
  TokenHistory<float> history_;
  std::vector<TokenRange> ranges_;
  std::vector<std::uint8_t> tree_;
};

}  // namespace squat::testing
