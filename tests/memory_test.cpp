// What memory() says against arithmetic and against the allocator.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "allocated_bytes.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

const ModelShape large{2, 4, 4, 64};
constexpr Index width = 4 * 64;
const Index heads = large.layers * large.kv_heads;

/// Appends `count` tokens to every layer and flushes.
void feed(Cache& cache, Index count, const CallOptions& options = {}) {
  const Rows queries = random_matrix<float>(count, width, 1);
  const Rows keys = random_matrix<float>(count, width, 2),
             values = random_matrix<float>(count, width, 3);
  for (Index layer = 0; layer < large.layers; ++layer) {
    cache.update(layer, Queries(queries), Keys(keys), Values(values), options);
    cache.flush(layer);
  }
}

constexpr Index token_codes = 64 * 2 / 8;  ///< of the key or the value of one token and head
/// A scale and a zero of 2 bytes for 32 numbers: of 32 tokens (keys), of 32 channels (values).
constexpr Index token_scales = 64 / 32 * 2 * 2;
const Index row_bytes = heads * 32 * 2 * (token_codes + token_scales);

/// Keys and values of all heads are packed for this many tokens each.
void expect_packed(const MemoryUsage& usage, Index keys, Index values) {
  EXPECT_EQ(usage.codes, heads * (keys + values) * token_codes);
  EXPECT_EQ(usage.scales, heads * (keys + values) * token_scales);
  EXPECT_EQ((usage.codes + usage.scales + usage.reserved) % row_bytes, 0);
}

TEST(Memory, CodesAndScalesAreWhatTheirBitsTake) {
  Cache cache(large);
  expect_packed(cache.memory(), 0, 0);
  Index tokens = 0;
  for (const Index count : {10, 300, 1, 9, 31, 33, 500, 6000, 40}) {
    feed(cache, count);
    tokens += count;
    SCOPED_TRACE(tokens);
    const MemoryUsage usage = cache.memory();
    const Index rows = tokens / 32;
    expect_packed(usage, rows * 32, std::max(tokens - 32, Index{0}));
    EXPECT_LE(usage.codes + usage.scales + usage.reserved, (rows * 9 / 8 + 32) * row_bytes);
  }
}

Config scales_per_token() {
  Config config;
  config.key_scales = KeyScales::per_token;
  config.residual_length = 0;
  return config;
}

TEST(Memory, WithoutResidualIsWhatTheBitsTake) {
  Cache cache(large, scales_per_token());
  Index tokens = 0;
  for (const Index count : {10, 300, 1, 9, 500, 6000}) {
    feed(cache, count);
    tokens += count;
    SCOPED_TRACE(tokens);
    const MemoryUsage usage = cache.memory();
    expect_packed(usage, tokens, tokens);
    EXPECT_LE(usage.codes + usage.scales + usage.reserved, (tokens / 32 * 9 / 8 + 32) * row_bytes);
  }
  cache.truncate(5000);
  feed(cache, 1);
  tokens = 5001;
  const MemoryUsage usage = cache.memory();
  expect_packed(usage, tokens, tokens);
  EXPECT_LE(usage.residual, large.layers * 20 * width * 2 * Index{sizeof(float)});
  // Two bits of a code, and two halves for 32 of them.
  const double bits = 2 + 2 * 16.0 / 32, elements = static_cast<double>(heads * 2 * 64 * tokens);
  EXPECT_NEAR(8 * static_cast<double>(usage.codes + usage.scales) / elements, bits, 0.02 * bits);
}

TEST(Memory, KeysAndValuesHaveWidthsOfTheirOwn) {
  for (const KeyScales scales : {KeyScales::per_channel, KeyScales::per_token}) {
    Config config;
    config.key_scales = scales;
    config.key_bits = 4;
    config.value_bits = 1;
    Cache cache(large, config);
    feed(cache, 320);
    const Index keys = scales == KeyScales::per_token ? 320 - 32 : 320, values = 320 - 32;
    EXPECT_EQ(cache.memory().codes, heads * (keys * 64 * 4 + values * 64 * 1) / 8);
  }
}

TEST(Memory, ResidualShrinksAfterThePrompt) {
  Cache cache(large);
  const Index row = large.layers * width * 2 * Index{sizeof(float)};  // keys and values of a token
  const Rows queries = random_matrix<float>(2000, width, 1),
             keys = random_matrix<float>(2000, width, 2);
  for (Index layer = 0; layer < large.layers; ++layer)
    cache.update(layer, Queries(queries), Keys(keys), Values(keys));
  EXPECT_GE(cache.memory().residual, 2000 * row);
  for (Index layer = 0; layer < large.layers; ++layer) cache.flush(layer);
  EXPECT_LE(cache.memory().residual, 100 * row);
  for (int token = 0; token < 200; ++token) {
    feed(cache, 1);
    ASSERT_LE(cache.memory().residual, 150 * row);
    ASSERT_GE(cache.memory().residual, 32 * row / 2);
  }
}

TEST(Memory, SubspaceKeepsTheMomentWhileThePromptLasts) {
  Cache cache(large), at_once(large);
  CallOptions options;
  options.fit = FitQueries::accumulate;
  feed(cache, 100, options);
  feed(at_once, 100);
  const Index moments = heads * (64 * 63 / 2 * 2 + 64 * 4);  // correlations and energies
  const Index during = cache.memory().subspace;
  EXPECT_GE(during, moments);
  EXPECT_LE(during, moments + at_once.memory().subspace + heads * 2048);
  feed(cache, 1);
  EXPECT_LE(cache.memory().subspace, during - moments);
  EXPECT_EQ(cache.memory().subspace, at_once.memory().subspace);
}

TEST(Memory, TruncatingAndClearingFree) {
  Cache cache(large);
  feed(cache, 4000);
  const Index full = cache.memory().total();
  cache.truncate(500);  // in the middle of the 16th row of blocks, which stays
  expect_packed(cache.memory(), 16 * 32, 16 * 32);
  EXPECT_LE(cache.memory().reserved, 32 * row_bytes);
  EXPECT_LT(cache.memory().total(), full / 2);
  cache.truncate(0);
  expect_packed(cache.memory(), 0, 0);
  EXPECT_EQ(cache.memory().reserved, 0);
  cache.clear();
  const MemoryUsage empty = cache.memory();
  EXPECT_EQ(empty.codes + empty.scales + empty.reserved + empty.residual + empty.subspace, 0);
  EXPECT_EQ(empty.total(), Cache(large).memory().total());
}

void expect_total_to_be_what_is_allocated(const Config& config) {
  if (allocated_bytes() < 0) GTEST_SKIP() << "this C library does not count";
  feed(*std::make_unique<Cache>(large, config), 600);  // what is allocated once and kept
  const Index before = allocated_bytes();
  auto cache = std::make_unique<Cache>(large, config);
  const auto expect_agreement = [&](const char* when) {
    const Index allocated = allocated_bytes() - before, total = cache->memory().total();
    EXPECT_NEAR(static_cast<double>(total), static_cast<double>(allocated),
                0.02 * static_cast<double>(allocated))
        << when;
  };
  for (int chunk = 0; chunk < 8; ++chunk) feed(*cache, 1000);
  expect_agreement("after a prompt");
  for (int token = 0; token < 70; ++token) feed(*cache, 1);
  expect_agreement("after decoding");
  cache->truncate(7000);
  expect_agreement("after truncation");
  cache->clear();
  EXPECT_LE(allocated_bytes() - before, 100000);
}

TEST(Memory, TotalIsWhatIsAllocated) { expect_total_to_be_what_is_allocated(Config{}); }

TEST(Memory, TotalIsWhatIsAllocatedWithoutResidual) {
  expect_total_to_be_what_is_allocated(scales_per_token());
}

}  // namespace
}  // namespace squat::testing
