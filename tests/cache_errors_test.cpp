// Every call that SQuatCache refuses: what it says, and that the cache is as it was.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <memory>
#include <squat/detail/simd/dispatch.hpp>
#include <squat/detail/simd/instruction_sets.hpp>
#include <string>
#include <vector>

#include "expect_error.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Everything that a caller can see of a cache.
struct Visible {
  explicit Visible(const Cache& cache) : memory(cache.memory()) {
    for (Index layer = 0; layer < cache.shape().layers; ++layer)
      for (Index s = 0; s < cache.sequences(); ++s) {
        sizes.push_back(cache.size(layer, sequence(s)));
        contents.push_back(cache.keys(layer, sequence(s)));
        contents.push_back(cache.values(layer, sequence(s)));
        if (sizes.back() == 0) continue;
        const Rows queries = random_matrix<float>(1, cache.shape().query_heads * 16, 1);
        contents.emplace_back(queries.rows(), queries.cols());
        cache.attend(layer, queries, contents.back(), sequence(s));
      }
  }

  void expect_same(const Visible& other) const {
    EXPECT_EQ(sizes, other.sizes);
    ASSERT_EQ(contents.size(), other.contents.size());
    for (std::size_t i = 0; i < contents.size(); ++i)
      EXPECT_TRUE(same(contents[i], other.contents[i]));
    EXPECT_EQ(memory.codes, other.memory.codes);
    EXPECT_EQ(memory.scales, other.memory.scales);
    EXPECT_EQ(memory.residual, other.memory.residual);
    EXPECT_EQ(memory.subspace, other.memory.subspace);
    EXPECT_EQ(memory.bookkeeping, other.memory.bookkeeping);
  }

  std::vector<Index> sizes;
  std::vector<Rows> contents;
  MemoryUsage memory;
};

/// A cache with 100 tokens in layer 0 of sequence 0, 70 of them not flushed yet, and 5 in layer 1;
/// sequence 1 is empty.
class CacheErrors : public ::testing::Test {
 protected:
  CacheErrors() : cache_({2, 4, 2, 16}, strong_feedback(), 2) {
    update(cache_, tokens_, 0, 30);
    update(cache_, tokens_, 30, 70);
    cache_.update(1, Queries(queries_), Keys(keys_), Values(values_));
    before_ = std::make_unique<Visible>(cache_);
  }

  void TearDown() override { Visible(cache_).expect_same(*before_); }

  /// update() of layer 0 of an empty or a filled sequence.
  void update_by(const Rows& keys, const Rows& values, const Rows& queries,
                 const CallOptions& options = {}) {
    cache_.update(0, Queries(queries), Keys(keys), Values(values), options);
  }

  Cache cache_;
  const Tokens tokens_{100, 1}, five_{5, 2};
  // Five tokens that every call would take, for tests to spoil.
  Rows queries_ = five_.queries, keys_ = five_.keys, values_ = five_.values;
  Rows out_ = Rows::Zero(5, query_width);
  std::unique_ptr<Visible> before_;
};

TEST_F(CacheErrors, LayerAndSequence) {
  for (const Index layer : {-1, 2, 99}) {
    const std::string value = "layer is " + std::to_string(layer);
    const char *given = value.c_str(), *allowed = "layers 0 to 1";
    EXPECT_ERROR(cache_.update(layer, Queries(queries_), Keys(keys_), Values(values_)), given,
                 allowed);
    EXPECT_ERROR(cache_.attend(layer, queries_, out_), given, allowed);
    EXPECT_ERROR(cache_.attention(layer, Queries(queries_), Keys(keys_), Values(values_), out_),
                 given, allowed);
    EXPECT_ERROR(cache_.flush(layer), given, allowed);
    EXPECT_ERROR(cache_.keys(layer), given, allowed);
    EXPECT_ERROR(cache_.values(layer), given, allowed);
    EXPECT_ERROR(cache_.size(layer), given, allowed);
  }
  for (const Index index : {-1, 2}) {
    const std::string value = "options.sequence is " + std::to_string(index);
    const char *given = value.c_str(), *allowed = "sequences 0 to 1";
    const CallOptions options = sequence(index);
    EXPECT_ERROR(cache_.update(0, Queries(queries_), Keys(keys_), Values(values_), options), given,
                 allowed);
    EXPECT_ERROR(cache_.attend(0, queries_, out_, options), given, allowed);
    EXPECT_ERROR(
        cache_.attention(0, Queries(queries_), Keys(keys_), Values(values_), out_, options), given,
        allowed);
    EXPECT_ERROR(cache_.flush(0, options), given, allowed);
    EXPECT_ERROR(cache_.keys(0, options), given, allowed);
    EXPECT_ERROR(cache_.values(0, options), given, allowed);
    EXPECT_ERROR(cache_.size(0, options), given, allowed);
    EXPECT_ERROR(cache_.truncate(0, options), given, allowed);
  }
}

TEST_F(CacheErrors, ShapesOfNewTokens) {
  const auto wide = [](const Rows& rows) { return Rows(Rows::Zero(5, rows.cols() + 8)); };
  EXPECT_ERROR(update_by(keys_.topRows(0), values_.topRows(0), queries_.topRows(0)), "keys",
               "no rows", "at least one");
  EXPECT_ERROR(update_by(keys_, values_.topRows(4), queries_), "values", "4 rows", "5");
  EXPECT_ERROR(update_by(keys_, values_, queries_.topRows(3)), "queries", "3 rows", "5");
  EXPECT_ERROR(update_by(wide(keys_), values_, queries_), "keys", "40 columns", "2 heads of 16");
  EXPECT_ERROR(update_by(keys_, wide(values_), queries_), "values", "40 columns", "2 heads of 16");
  EXPECT_ERROR(update_by(keys_, values_, wide(queries_)), "queries", "72 columns", "4 heads of 16");
  EXPECT_ERROR(update_by(keys_, values_, keys_), "queries", "32 columns", "4 heads of 16");
  EXPECT_ERROR(
      cache_.attention(0, Queries(queries_), Keys(keys_), Values(values_.topRows(4)), out_),
      "values", "4 rows");
  for (const std::size_t length : {std::size_t{4}, std::size_t{6}}) {
    const std::vector<std::uint8_t> mask(length, 1);
    CallOptions options;
    options.mask = mask;
    const char* given = length == 4 ? "4 entries" : "6 entries";
    EXPECT_ERROR(update_by(keys_, values_, queries_, options), "options.mask", given, "5 tokens");
    EXPECT_ERROR(
        cache_.attention(0, Queries(queries_), Keys(keys_), Values(values_), out_, options),
        "options.mask", given, "5 tokens");
    EXPECT_ERROR(cache_.attend(0, queries_, out_, options), "options.mask", given, "5 rows");
  }
}

TEST_F(CacheErrors, NumbersThatAreNotFinite) {
  for (const float bad : {infinity, -infinity, nan})
    for (const Index s : {0, 1}) {  // a filled sequence, and one whose subspace is still to fit
      const CallOptions options = sequence(s);
      const char* value = bad != bad ? "nan" : bad > 0 ? "is inf" : "is -inf";
      for (Rows* matrix : {&keys_, &values_, &queries_}) {
        const char* name = matrix == &keys_ ? "keys" : matrix == &values_ ? "values" : "queries";
        const float good = (*matrix)(3, 17);
        (*matrix)(3, 17) = bad;
        EXPECT_ERROR(update_by(keys_, values_, queries_, options), name, "row 3 column 17", value,
                     "must be finite");
        EXPECT_ERROR(
            cache_.attention(0, Queries(queries_), Keys(keys_), Values(values_), out_, options),
            name, "row 3 column 17", value, "must be finite");
        if (matrix == &queries_ && s == 0) {
          EXPECT_ERROR(cache_.attend(0, queries_, out_), name, "row 3 column 17", value);
        }
        (*matrix)(3, 17) = good;
      }
    }
}

TEST_F(CacheErrors, QueriesWhoseSquaresOverflow) {
  queries_(2, 3) = 1e37f;
  cache_.clear();
  before_ = std::make_unique<Visible>(cache_);
  EXPECT_ERROR(update_by(keys_, values_, queries_), "queries", "squares", "2^240");
}

TEST_F(CacheErrors, ArgumentsOfAttend) {
  EXPECT_ERROR(cache_.attend(0, queries_, out_, sequence(1)), "layer 0", "sequence 1", "is empty");
  EXPECT_ERROR(cache_.attend(0, queries_.topRows(0), out_.topRows(0)), "queries", "no rows");
  const Tokens six(6, 3);
  Rows out = Rows::Zero(6, query_width);
  EXPECT_ERROR(cache_.attend(1, six.queries, out), "queries", "6 rows", "5 tokens");
  EXPECT_ERROR(cache_.attend(0, keys_, out_), "queries", "32 columns", "4 heads of 16");
  Rows narrow = Rows::Zero(5, query_width - 1);
  for (Rows* wrong : {&out, &narrow}) {
    const char* size = wrong == &out ? "[6, 64]" : "[5, 63]";
    EXPECT_ERROR(cache_.attend(0, queries_, *wrong), "out", size, "[5, 64]");
    EXPECT_ERROR(cache_.attention(0, Queries(queries_), Keys(keys_), Values(values_), *wrong),
                 "out", size, "[5, 64]");
  }
}

TEST_F(CacheErrors, TruncationToMoreThanThereIs) {
  EXPECT_ERROR(cache_.truncate(-1), "size is -1", "100 tokens");
  EXPECT_ERROR(cache_.truncate(101), "size is 101", "100 tokens");
  EXPECT_ERROR(cache_.truncate(6), "size is 6", "layer 1", "5 tokens");  // layer 0 has as many
  EXPECT_ERROR(cache_.truncate(1, sequence(1)), "size is 1", "0 tokens");
}

TEST(CacheConstruction, ChecksItsArguments) {
  Config config;
  config.subspace_dim = 0;
  EXPECT_ERROR(Cache(ModelShape{1, 1, 1, 577}), "shape.head_dim is 577", "1 to 576");
  EXPECT_ERROR(Cache(shape, config), "config.subspace_dim is 0");
  EXPECT_ERROR(Cache(shape, Config{}, 0), "sequences is 0", "1 to 65536");
}

/// Makes a cache with the environment variable SQUAT_SIMD set, and prints the error or which
/// instruction set that is.
[[noreturn]] void make_cache_under(const char* simd) {
  setenv("SQUAT_SIMD", simd, 1);
  std::string message;
  try {
    const Cache cache(shape);
    message = std::string("kernels: ") + detail::simd::instruction_set_in_use().name;
  } catch (const Error& error) {
    message = error.what();
  }
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(0);
}

TEST(CacheConstructionDeathTest, WantsAnInstructionSetThatIsThere) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a process chooses its kernels once
  const auto good = ::testing::ExitedWithCode(0);
  EXPECT_EXIT(make_cache_under("portable"), good, "kernels: portable");
  const auto best_available = std::find_if(
      std::begin(detail::simd::instruction_sets), std::end(detail::simd::instruction_sets),
      [](const detail::simd::InstructionSet& set) { return set.is_available(); });
  EXPECT_EXIT(make_cache_under(""), good, std::string("kernels: ") + best_available->name);
  EXPECT_EXIT(make_cache_under("sse9"), good, "squat: SQUAT_SIMD is 'sse9'; .* be: .*portable");
  EXPECT_EXIT(make_cache_under("AVX2"), good, "squat: SQUAT_SIMD is 'AVX2'; .* be: .*portable");
  const std::string_view best = detail::simd::instruction_sets[0].name;
  const char* const foreign = best == "neon" || best == "portable" ? "avx2" : "neon";
  EXPECT_EXIT(make_cache_under(foreign), good, "squat: SQUAT_SIMD is '.*'; .* be: .*portable");
}

TEST(CacheRange, DependsOnWhatStoresScales) {
  for (const int scale_bits : {16, 32}) {
    Config config;
    config.scale_bits = scale_bits;
    const float largest = scale_bits == 16 ? 65504.0f : 1e18f;
    Cache cache(shape, config);
    Tokens tokens(64, 4);
    tokens.keys(1, 2) = largest;
    tokens.values(3, 4) = -largest;
    update(cache, tokens);
    cache.flush(0);
    const Rows keys = cache.keys(0), values = cache.values(0);
    EXPECT_TRUE(keys.allFinite() && values.allFinite());
    EXPECT_NEAR(keys(1, 2), largest, 1e-3f * largest);
    EXPECT_NEAR(values(3, 4), -largest, 1e-3f * largest);

    const Visible before(cache);
    for (Rows* matrix : {&tokens.keys, &tokens.values}) {
      float& element = (*matrix)(5, 6);
      const float good = element;
      element = -1.01f * largest;
      const char* name = matrix == &tokens.keys ? "keys row 5 column 6" : "values row 5 column 6";
      EXPECT_ERROR(update(cache, tokens), name, "must be finite",
                   scale_bits == 16 ? "at most 65504 in magnitude (config.scale_bits = 32"
                                    : "at most 1e18 in magnitude");
      element = good;
    }
    Visible(cache).expect_same(before);
  }
}

}  // namespace
}  // namespace squat::testing
