// Arguments that cannot be mixed up, options that are never ignored, queries that may be left out.
#include <gtest/gtest.h>

#include <type_traits>
#include <utility>

#include "expect_error.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

template <class... Arguments>
using UpdateWith = decltype(std::declval<Cache&>().update(0, std::declval<Arguments>()...));
template <class, class... Arguments>
struct TakesUpdate : std::false_type {};
template <class... Arguments>
struct TakesUpdate<std::void_t<UpdateWith<Arguments...>>, Arguments...> : std::true_type {};
template <class... Arguments>
constexpr bool takes_update = TakesUpdate<void, const Arguments&...>::value;

using Q = Queries<float>;
using K = Keys<float>;
using V = Values<float>;

TEST(Arguments, OfUpdateCannotBeSwapped) {
  EXPECT_TRUE((takes_update<Q, K, V>));
  EXPECT_TRUE((takes_update<K, V>));
  EXPECT_FALSE((takes_update<K, Q, V>));
  EXPECT_FALSE((takes_update<Q, V, K>));
  EXPECT_FALSE((takes_update<K, V, Q>));
  EXPECT_FALSE((takes_update<V, K>));
  EXPECT_FALSE((takes_update<Rows, Rows, Rows>));
  EXPECT_FALSE((takes_update<Queries<double>, Keys<double>, Values<double>>));
}

TEST(Arguments, MayBeMatricesThatHaveToBeCopied) {
  // Columns of a column-major matrix are no rows that a view could show.
  const Tokens tokens(100, 1);
  const Eigen::MatrixXf queries = tokens.queries, keys = tokens.keys, values = tokens.values;
  Cache viewed(shape, strong_feedback()), copied(shape, strong_feedback());
  update(viewed, tokens);
  copied.update(0, Queries(queries), Keys(keys), Values(values));
  viewed.flush(0);
  copied.flush(0);
  EXPECT_TRUE(same(viewed.keys(0), copied.keys(0)));
  EXPECT_TRUE(same(viewed.values(0), copied.values(0)));
}

TEST(Queries, MayBeLeftOutWhereNothingIsFitted) {
  const Tokens tokens(200, 1);
  for (const bool adaptive : {false, true}) {
    Config config = adaptive ? Config::recommended() : Config{};
    config.squat_lambda = 0;
    Cache with(shape, config), without(shape, config);
    for (const Index first : {0, 120}) {
      const Index count = first == 0 ? 120 : 80;
      update(with, tokens, first, count);
      without.update(0, Keys(tokens.keys.middleRows(first, count)),
                     Values(tokens.values.middleRows(first, count)));
    }
    with.flush(0);
    without.flush(0);
    EXPECT_TRUE(same(with.keys(0), without.keys(0))) << adaptive;
    EXPECT_TRUE(same(with.values(0), without.values(0))) << adaptive;
  }
}

TEST(Queries, MayBeLeftOutInACalibratedCache) {
  const Tokens tokens(200, 1);
  QueryMoments moments(shape);
  moments.add<float>(0, tokens.queries);
  Cache with(shape, strong_feedback()), without(shape, strong_feedback());
  with.calibrate(moments);
  without.calibrate(moments);
  update(with, tokens);
  without.update(0, Keys(tokens.keys), Values(tokens.values));
  with.flush(0);
  without.flush(0);
  EXPECT_TRUE(same(with.keys(0), without.keys(0)));
}

TEST(Queries, MustBeThereToFit) {
  const Tokens tokens(200, 1);
  Cache cache(shape, strong_feedback());
  EXPECT_ERROR(cache.update(0, Keys(tokens.keys), Values(tokens.values)), "update has no queries",
               "squat_lambda is 0.1");
  EXPECT_EQ(cache.size(0), 0);
}

TEST(Options, OfAttendHaveAMaskOfItsLengthBeforeItIsRead) {
  const Tokens tokens(10, 1);
  Cache cache(shape, strong_feedback());
  update(cache, tokens);
  Rows out(10, query_width);
  const std::vector<std::uint8_t> short_mask(1, 1);
  CallOptions options;
  options.mask = short_mask;
  EXPECT_ERROR(cache.attend(0, tokens.queries, out, options), "options.mask has 1 entries",
               "queries have 10 rows");
}

TEST(Options, ThatACallDoesNotHonourAreErrors) {
  const Tokens tokens(10, 1);
  Cache cache(shape, strong_feedback());
  update(cache, tokens);
  Rows out(10, query_width);
  const auto all = [&](const CallOptions& options, const char* name, bool update, bool attend,
                       bool attention) {
    const auto call = [&](bool honours, const char* what, auto&& function) {
      if (honours)
        function();
      else
        EXPECT_ERROR(function(), name, what);
    };
    call(update, "update", [&] {
      cache.update(0, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values), options);
    });
    call(attend, "attend", [&] { cache.attend(0, tokens.queries, out, options); });
    call(attention, "attention", [&] {
      cache.attention(0, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values), out,
                      options);
    });
    EXPECT_ERROR(cache.flush(0, options), name, "flush");
    EXPECT_ERROR(cache.keys(0, options), name, "keys");
    EXPECT_ERROR(cache.values(0, options), name, "values");
    EXPECT_ERROR(cache.size(0, options), name, "size");
    EXPECT_ERROR(cache.first(0, options), name, "first");
    EXPECT_ERROR(cache.truncate(0, options), name, "truncate");
  };
  const std::vector<std::uint8_t> valid(10, 1);
  CallOptions options;
  options.mask = valid;
  all(options, "options.mask", true, true, true);
  options = {};
  options.fit = FitQueries::accumulate;
  all(options, "options.fit", true, false, true);
  options = {};
  options.position = 20;
  all(options, "options.position", false, true, false);
  std::vector<float> sums(10 * 4);
  options = {};
  options.log_sum_exp = sums.data();
  all(options, "options.log_sum_exp", false, true, true);
  const std::vector<TokenRange> ranges(10, TokenRange{0, 1});
  options = {};
  options.visible = ranges;
  all(options, "options.visible", false, true, true);
  const std::vector<std::uint8_t> tree(10 * 10, 1);
  options = {};
  options.tree = TreeMask(tree.data(), 10, 10);
  all(options, "options.tree", false, true, true);
  std::vector<float> received(2 * 1000);  // of two kv heads and more tokens than there will be
  options = {};
  options.received = received.data();
  all(options, "options.received", false, true, true);
}

TEST(Options, ShowNoTokensThatAreNotThere) {
  const Tokens tokens(10, 1);
  Cache cache(shape);
  update(cache, tokens);
  Rows out(2, query_width);
  const Rows queries = tokens.queries.topRows(2);
  const auto expect_refused = [&](const CallOptions& options, const char* what) {
    EXPECT_ERROR(cache.attend(0, queries, out, options), what);
    Rows more(2, query_width);
    EXPECT_ERROR(cache.attention(0, Queries(queries), Keys(tokens.keys.topRows(2)),
                                 Values(tokens.values.topRows(2)), more, options),
                 what);
    EXPECT_EQ(cache.size(0), 10);
  };
  std::vector<TokenRange> ranges = {{0, 10}, {3, 13}};
  CallOptions options;
  options.visible = ranges;
  expect_refused(options, "options.visible row 1 is [3, 13)");
  ranges[1] = {-1, 2};
  expect_refused(options, "options.visible row 1 is [-1, 2)");
  ranges.resize(1);
  options.visible = ranges;
  expect_refused(options, "options.visible has 1 entries; queries have 2 rows");
  const std::vector<std::uint8_t> tree(2 * 13, 1);
  options = {};
  options.tree = TreeMask(tree.data(), 2, 13);
  expect_refused(options, "options.tree is about 13 tokens");
  options.tree = TreeMask(tree.data(), 1, 2);
  expect_refused(options, "options.tree has 1 rows; queries have 2");
}

}  // namespace
}  // namespace squat::testing
