// What programs do that were not written with care.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

#include "expect_error.hpp"
#include "small_cache.hpp"

#if defined(__linux__)
#include <pthread.h>
#endif

namespace squat::testing {
namespace {

constexpr Index hostile_rows = 3;

Cache cache_of_prompt(const Config& config = strong_feedback(), Index sequences = 1) {
  Cache cache(shape, config, sequences);
  update(cache, Tokens(100, 21));
  cache.flush(0);
  return cache;
}

Rows last_queries() { return Tokens(hostile_rows, 22).queries; }

std::string bytes_of(const Cache& cache) {
  std::ostringstream out;
  cache.save(out);
  return out.str();
}

TEST(HostileUse, HugeQueriesFitLikeLargeOnes) {
  Config config;
  config.adaptive_bits = true;  // which asks the metric for what every channel costs
  Rows keys[2];
  for (const float size : {0x1p40f, 0x1p100f}) {
    Tokens tokens(200, 1);
    tokens.queries *= size;
    Cache cache(shape, config);
    update(cache, tokens);
    cache.flush(0);
    keys[size > 0x1p50f] = cache.keys(0);
  }
  EXPECT_TRUE(same(keys[0], keys[1]));
}

TEST(HostileStreams, MayThrow) {
  const Cache cache = cache_of_prompt();
  std::ostringstream good;
  good.exceptions(std::ios::failbit | std::ios::badbit | std::ios::eofbit);
  cache.save(good);
  Cache loaded(shape, strong_feedback());
  std::istringstream in(good.str());
  in.exceptions(std::ios::failbit | std::ios::badbit | std::ios::eofbit);
  loaded.load(in);  // reads to its end and not beyond
  EXPECT_TRUE(bytes_of(loaded) == good.str());

  std::ostringstream broken;
  broken.setstate(std::ios::badbit);
  EXPECT_ERROR(cache.save(broken), "could not be written");
  std::ofstream nowhere("/no/such/folder/cache", std::ios::binary);
  EXPECT_ERROR(cache.save(nowhere), "could not be written");
  std::istringstream half(good.str().substr(0, good.str().size() / 2));
  half.exceptions(std::ios::failbit | std::ios::badbit | std::ios::eofbit);
  EXPECT_THROW(loaded.load(half), std::ios_base::failure);
  EXPECT_TRUE(bytes_of(loaded) == good.str());
}

TEST(HostileStreams, MayBeFullDisks) {
  const Cache cache = cache_of_prompt();
  std::ofstream full("/dev/full", std::ios::binary);
  if (!full) GTEST_SKIP() << "there is no /dev/full";
  EXPECT_ERROR(cache.save(full), "could not be written");
  std::ofstream throwing("/dev/full", std::ios::binary);
  throwing.exceptions(std::ios::failbit | std::ios::badbit);
  EXPECT_THROW(cache.save(throwing), std::ios_base::failure);
}

/// Runs the first `called` tasks `times` times each, then throws if asked.
class CarelessExecutor : public Executor {
 public:
  CarelessExecutor(Index called, int times, bool throws)
      : called_(called), times_(times), throws_(throws) {}
  void run(Index tasks, const std::function<void(Index)>& task) override {
    for (Index i = 0; i < std::min(tasks, called_); ++i)
      for (int time = 0; time < times_; ++time) task(i);
    if (throws_) throw std::runtime_error("no threads today");
  }

 private:
  Index called_;
  int times_;
  bool throws_;
};

TEST(HostileExecutors, MayThrow) {
  Cache cache = cache_of_prompt();
  const Rows expected = attend(cache, last_queries());
  const std::string before = bytes_of(cache);
  for (const Index called : {Index{0}, Index{1}, Index{1000}}) {
    CarelessExecutor executor(called, 1, true);
    cache.set_executor(executor);
    EXPECT_THROW(attend(cache, last_queries()), std::runtime_error);
    EXPECT_TRUE(bytes_of(cache) == before);
    SerialExecutor serial;
    cache.set_executor(serial);
    EXPECT_TRUE(same(attend(cache, last_queries()), expected));
  }
}

TEST(HostileExecutors, MayThrowWhenTokensAreThere) {
  Cache cache = cache_of_prompt(), other = cache_of_prompt();
  const Tokens tokens(1, 23);
  CarelessExecutor executor(0, 1, true);
  cache.set_executor(executor);
  Rows out(1, query_width), expected(1, query_width);
  EXPECT_THROW(
      cache.attention(0, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values), out),
      std::runtime_error);
  EXPECT_EQ(cache.size(0), 101);
  SerialExecutor serial;
  cache.set_executor(serial);
  cache.attend(0, tokens.queries, out);
  cache.flush(0);
  other.attention(0, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values), expected);
  EXPECT_TRUE(same(out, expected));
  EXPECT_TRUE(bytes_of(cache) == bytes_of(other));
}

TEST(HostileExecutors, MayRunTasksTwice) {
  Cache cache = cache_of_prompt();
  SerialExecutor serial;
  for (const Index rows : {1, 70}) {
    const Rows queries = Tokens(rows, 24).queries;
    const Rows expected = attend(cache, queries);
    CarelessExecutor executor(1000000, 2, false);
    cache.set_executor(executor);
    EXPECT_TRUE(same(attend(cache, queries), expected));
    cache.set_executor(serial);
  }
}

TEST(HostileExecutors, MayNotRunTooFew) {
  Cache cache = cache_of_prompt();
  const std::string before = bytes_of(cache);
  const Rows expected = attend(cache, last_queries());
  for (const Index called : {0, 1}) {
    CarelessExecutor executor(called, 1, false);
    cache.set_executor(executor);
    EXPECT_ERROR(attend(cache, last_queries()), "the executor returned after", "tasks");
    EXPECT_TRUE(bytes_of(cache) == before);
    SerialExecutor serial;
    cache.set_executor(serial);
    EXPECT_TRUE(same(attend(cache, last_queries()), expected));
  }
}

/// A thread for each task, and several calls at a time.
class SharedExecutor : public Executor {
 public:
  void run(Index tasks, const std::function<void(Index)>& task) override {
    std::vector<std::thread> threads;
    for (Index i = 0; i < tasks; ++i) threads.emplace_back(task, i);
    for (std::thread& thread : threads) thread.join();
  }
};

TEST(HostileExecutors, MayServeTwoCaches) {
  Config other = strong_feedback();
  other.value_bits = 4;
  Cache first = cache_of_prompt(), second = cache_of_prompt(other);
  const Rows wanted_first = attend(first, last_queries());
  const Rows wanted_second = attend(second, last_queries());
  SharedExecutor executor;
  first.set_executor(executor);
  second.set_executor(executor);
  Rows got_first, got_second;
  std::thread thread([&] { got_first = attend(first, last_queries()); });
  got_second = attend(second, last_queries());
  thread.join();
  EXPECT_TRUE(same(got_first, wanted_first));
  EXPECT_TRUE(same(got_second, wanted_second));
  EXPECT_FALSE(same(got_first, got_second));
}

TEST(HostileSizes, SequencesBeyondMemoryAreRefused) {
  for (const Index sequences :
       {Index{-1}, Index{0}, max_sequences + 1, Index{1} << 31, std::numeric_limits<Index>::max()})
    EXPECT_ERROR(Cache(shape, Config{}, sequences), "sequences is",
                 std::to_string(sequences).c_str(), "1 to 65536");
  Cache cache(shape, Config{}, max_sequences);
  EXPECT_ERROR(cache.fork(0, max_sequences), "to is 65536", "0 to 65535");
}

TEST(HostileSizes, ResidualsAndWindowsAtTheirLimits) {
  const Tokens tokens(100, 25);
  Cache plain(shape);
  update(plain, tokens);  // nothing is flushed
  const Rows expected = attend(plain, last_queries());
  Config config;
  config.residual_length = std::numeric_limits<Index>::max() / 32 * 32;
  config.quant_group_size = config.subspace_dim = std::numeric_limits<Index>::max();
  for (const Index window : {Index{0}, max_position}) {
    ModelShape widest = shape;
    widest.window = window;
    Cache cache(widest, config);
    update(cache, tokens);
    cache.flush(0);
    EXPECT_TRUE(same(cache.keys(0), tokens.keys));  // all of it is residual
    EXPECT_TRUE(same(attend(cache, last_queries()), expected));
  }
  ModelShape narrow = shape;
  for (Index LayerShape::*limit : {&LayerShape::window, &LayerShape::chunk}) {
    narrow = shape;
    narrow.*limit = 1;
    Cache own(narrow);
    update(own, tokens);
    const Rows out = attend(own, last_queries());
    for (Index head = 0; head < 4; ++head)  // a token sees itself alone
      EXPECT_TRUE(same(Rows(out.middleCols(16 * head, 16)),
                       Rows(tokens.values.bottomRows(hostile_rows).middleCols(head / 2 * 16, 16))));
  }
  narrow = shape;
  narrow.window = max_position + 1;
  EXPECT_ERROR(Cache{narrow}, "window is", std::to_string(max_position).c_str());
}

TEST(HostileConfigs, NumbersThatAreNoneAreNamed) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const auto expect_named = [&](double Config::*field, const char* name) {
    Config config;
    config.adaptive_bits = true;
    config.*field = none;
    EXPECT_ERROR(Cache(shape, config), name, "nan");
  };
  expect_named(&Config::squat_lambda, "config.squat_lambda is");
  expect_named(&Config::key_bits, "config.key_bits is");
  expect_named(&Config::query_decay, "config.query_decay is");
  Config config;
  config.layer_bits = {{none, 2}};
  EXPECT_ERROR(Cache(shape, config), "key_bits is", "nan");
  EXPECT_ERROR(Config::recommended(none), "mean_bits is", "nan");
  ModelShape of_nans = shape;
  of_nans.softmax_scale = none;
  EXPECT_ERROR(Cache{of_nans}, "softmax_scale is", "nan");
  of_nans = shape;
  of_nans.softcap = none;
  EXPECT_ERROR(Cache{of_nans}, "softcap is", "nan");
}

using Columns = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic>;  // column by column
using Spread = Eigen::Map<Rows, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;

// What is written to must lie as the cache writes.
static_assert(std::is_convertible_v<Rows&, MutableMatrixView<float>>);
static_assert(!std::is_convertible_v<Columns&, MutableMatrixView<float>>);
static_assert(!std::is_convertible_v<Spread&, MutableMatrixView<float>>);
static_assert(!std::is_convertible_v<const Rows&, MutableMatrixView<float>>);

TEST(HostileMatrices, LieColumnByColumnOrSpread) {
  const Tokens tokens(100, 26);
  Cache rows(shape), columns(shape), spread(shape);
  update(rows, tokens);
  columns.update(0, Queries(Columns(tokens.queries)), Keys(Columns(tokens.keys)),
                 Values(Columns(tokens.values)));
  Rows wide = Rows::Constant(100, 3 * query_width, 9);
  const auto every_third = [&](const Rows& x) {
    Spread view(wide.data(), x.rows(), x.cols(),
                Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(3 * query_width, 3));
    view = x;
    return view;
  };
  Cache parts(shape);
  const Spread queries = every_third(tokens.queries);
  spread.update(0, Queries(queries), Keys(tokens.keys), Values(tokens.values));
  const Rows expected = attend(rows, last_queries());
  EXPECT_TRUE(same(attend(columns, last_queries()), expected));
  EXPECT_TRUE(same(attend(spread, last_queries()), expected));
  Rows out(hostile_rows, query_width);
  rows.attend(0, Columns(last_queries()), out);
  EXPECT_TRUE(same(out, expected));
  rows.attend(0, every_third(last_queries()), out);
  EXPECT_TRUE(same(out, expected));
  const Spread keys = every_third(tokens.keys);
  parts.update(0, Queries(tokens.queries), Keys(keys), Values(tokens.values));
  EXPECT_TRUE(same(attend(parts, last_queries()), expected));
}

static_assert(!std::is_copy_constructible_v<Cache> && !std::is_copy_assignable_v<Cache>);
static_assert(std::is_nothrow_move_constructible_v<Cache>);

TEST(HostileMoves, LeaveACacheThatTakesNothingButAssignment) {
  Cache first = cache_of_prompt();
  const Rows expected = attend(first, last_queries());
  Cache second = std::move(first);
  EXPECT_TRUE(same(attend(second, last_queries()), expected));
  const char* const why = "the cache was moved from";
  EXPECT_ERROR(attend(first, last_queries()), why);
  EXPECT_ERROR(update(first, Tokens(3, 27)), why);
  EXPECT_ERROR(first.size(0), why);
  EXPECT_ERROR(first.shape(), why);
  EXPECT_ERROR(first.clear(), why);
  EXPECT_ERROR(bytes_of(first), why);
  first = std::move(second);
  EXPECT_TRUE(same(attend(first, last_queries()), expected));
  first = Cache(shape);
  EXPECT_EQ(first.size(0), 0);
}

TEST(HostileMoves, CopiesAreForksAndFiles) {
  Cache cache = cache_of_prompt(strong_feedback(), 2);
  cache.fork(0, 1);
  update(cache, Tokens(5, 28));
  EXPECT_EQ(cache.size(0), 105);
  EXPECT_EQ(cache.size(0, sequence(1)), 100);
  Cache copy(shape, strong_feedback(), 2);
  std::istringstream in(bytes_of(cache));
  copy.load(in);
  EXPECT_TRUE(bytes_of(copy) == bytes_of(cache));
}

#if defined(__linux__)
TEST(HostileThreads, HaveStacksOf64KiB) {
  const auto everything = [](void*) -> void* {
    for (const Config& config : {strong_feedback(), Config::recommended(2.5)}) {
      const ModelShape wide{1, 4, 2, 256};
      Cache cache(wide, config);
      const Rows rows = correlated_matrix<float>(200, 4 * 256, 29);
      const Rows few = rows.leftCols(2 * 256);
      Rows out(200, 4 * 256);
      cache.attention(0, Queries(rows), Keys(few), Values(few), out);
      const Rows last = rows.bottomRows(1);
      Rows decoded(1, 4 * 256);
      cache.attend(0, last, decoded);
      std::stringstream file;
      cache.save(file);
      cache.load(file);
    }
    return nullptr;
  };
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 64 * 1024), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, everything, nullptr), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}
#endif

}  // namespace
}  // namespace squat::testing
