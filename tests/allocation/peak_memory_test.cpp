// What caches take, by the allocator's own count.
#include <gtest/gtest.h>

#include <squat/squat.hpp>

#include "../random_matrix.hpp"
#include "failing_allocator.hpp"

namespace squat::testing {
namespace {

using Cache = SQuatCache<float, 2>;

const ModelShape shapes[] = {{1, 9, 3, 64}, {1, 16, 4, 128}, {1, 4, 1, 256}};

/// Queries, keys and values of one layer, and room for the output.
struct Prompt {
  Prompt(const ModelShape& shape, Index tokens)
      : queries(random_matrix<float>(tokens, shape.query_heads * shape.head_dim, 1)),
        keys(random_matrix<float>(tokens, shape.kv_heads * shape.head_dim, 2)),
        values(random_matrix<float>(tokens, shape.kv_heads * shape.head_dim, 3)),
        out(tokens, queries.cols()) {}

  /// Appends tokens [first, first + count), which attend only if asked to: that takes long.
  void feed(Cache& cache, Index first, Index count, Index sequence = 0, bool attend = false) {
    CallOptions options;
    options.sequence = sequence;
    const auto q = queries.middleRows(first, count);
    cache.update(0, Queries<float>(q), Keys<float>(keys.middleRows(first, count)),
                 Values<float>(values.middleRows(first, count)), options);
    if (attend) cache.attend(0, q, out.topRows(count), options);
    cache.flush(0, options);
  }

  Matrix<float> queries, keys, values, out;
};

/// Bits of an element of `tokens` tokens.
double bits(std::size_t bytes, const ModelShape& shape, Index tokens) {
  return 8 * static_cast<double>(bytes) /
         static_cast<double>(2 * tokens * shape.kv_heads * shape.head_dim);
}

TEST(PeakMemory, OfAPromptIsBelowItsKeysAndValues) {
  for (const ModelShape& shape : shapes) {
    SCOPED_TRACE(shape.head_dim);
    Prompt prompt(shape, 4096);
    Cache cache(shape, Config::recommended(2.5));
    const std::size_t before = live_bytes();
    reset_peak();
    prompt.feed(cache, 0, 4096, 0, true);
    EXPECT_LE(bits(peak_bytes() - before, shape, 4096), 32);
  }
}

TEST(PeakMemory, BitsPerElementAtEveryLength) {
  const struct {
    Index tokens;
    double most;  // bits of an element, everything included
  } bounds[] = {{32, 16}, {128, 7}, {256, 5}, {512, 3.7}, {1024, 3.1}, {4096, 2.65}};
  for (const ModelShape& shape : shapes)
    for (const auto& [tokens, most] : bounds) {
      if (tokens > 1024 && shape.head_dim > 64) continue;
      SCOPED_TRACE(shape.head_dim);
      SCOPED_TRACE(tokens);
      Prompt prompt(shape, tokens);
      const std::size_t before = live_bytes();
      // A model has many layers, so what is there once for all of them does not count.
      Cache cache(shape, Config::recommended(2.5));
      const std::size_t empty = live_bytes();
      prompt.feed(cache, 0, tokens);
      cache.trim();
      EXPECT_LE(bits(live_bytes() - empty, shape, tokens), most);
      EXPECT_LE(static_cast<double>(live_bytes() - before),
                1.02 * static_cast<double>(cache.memory().total()) + 4096);
    }
}

TEST(PeakMemory, ManySequencesShareAPrefix) {
  constexpr Index sequences = 32;
  for (const bool has_prefix : {false, true})
    for (const ModelShape& shape : shapes) {
      SCOPED_TRACE(has_prefix);
      SCOPED_TRACE(shape.head_dim);
      Prompt prompt(shape, 300);
      Cache cache(shape, Config::recommended(2.5), sequences);
      const std::size_t before = live_bytes();
      if (has_prefix) prompt.feed(cache, 0, 200);
      for (Index s = 0; s < sequences; ++s) {
        if (has_prefix && s > 0) cache.fork(0, s);
        if (!has_prefix) prompt.feed(cache, 0, 200, s);
      }
      for (Index s = 0; s < sequences; ++s) prompt.feed(cache, 200, 100, s);
      cache.trim();
      EXPECT_LE(bits(live_bytes() - before, shape, 300 * sequences),
                16 * (has_prefix ? 0.2 : 0.35));
    }
}

TEST(PeakMemory, TrimmingAndTruncatingGiveBack) {
  const ModelShape& shape = shapes[0];
  Prompt prompt(shape, 300);
  Cache cache(shape, Config::recommended(2.5), 2);
  const std::size_t before = live_bytes();
  for (int round = 0; round < 2; ++round) {
    for (const Index sequence : {0, 1}) prompt.feed(cache, 0, 300, sequence, true);
    CallOptions options;
    for (options.sequence = 0; options.sequence < 2; ++options.sequence) cache.truncate(0, options);
    EXPECT_GT(cache.memory().workspace, 0);
    cache.trim();
    EXPECT_EQ(cache.memory().workspace, 0);
    // The table of blocks, and the plan that the next sequence goes by.
    EXPECT_LE(live_bytes() - before, 32768u);
  }
}

}  // namespace
}  // namespace squat::testing
