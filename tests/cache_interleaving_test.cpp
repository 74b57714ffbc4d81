// Every interleaving of calls leaves a cache as the plain reference would be, bit for bit.
#include <gtest/gtest.h>

#include <random>
#include <squat/squat.hpp>
#include <string>
#include <vector>

#include "random_matrix.hpp"
#include "reference_cache.hpp"
#include "same_bytes.hpp"

namespace squat::testing {
namespace {

/// Does the same to a cache and to the reference, at random.
template <class Scalar, int KeyBits, int ValueBits>
class Interleaving {
 public:
  Interleaving(const ModelShape& shape, const Config& config, Index sequences, unsigned seed)
      : shape_(shape),
        cache_(shape, config, sequences),
        reference_(shape, config, sequences),
        random_(seed) {}

  void run(int calls) {
    for (int call = 0; call < calls && !::testing::Test::HasFailure(); ++call) {
      const Index sequence = below(cache_.sequences());
      const Index choice = below(22);
      if (choice < 13)
        update(below(shape_.layers), sequence, 1 + below(choice < 6 ? 3 : choice < 11 ? 40 : 150));
      else if (choice < 16)
        flush(below(shape_.layers), sequence);
      else if (choice < 18)
        truncate(sequence);
      else if (choice < 19)
        attend(below(shape_.layers), sequence);
      else if (choice < 21)
        fork(sequence, below(cache_.sequences()));
      else if (below(4) == 0)
        clear();
      compare();
      if (::testing::Test::HasFailure()) ADD_FAILURE() << "after call " << call << ":" << log_;
    }
  }

  Index most_tokens() const { return most_tokens_; }

 private:
  Index below(Index end) { return static_cast<Index>(random_() % static_cast<unsigned>(end)); }
  unsigned seed() { return static_cast<unsigned>(random_()); }
  void log(const std::string& what) { log_ += "\n  " + what; }
  static CallOptions of(Index sequence) {
    CallOptions options;
    options.sequence = sequence;
    return options;
  }

  void update(Index layer, Index sequence, Index tokens) {
    const Index d = shape_.head_dim;
    const auto queries = correlated_matrix<Scalar>(tokens, shape_.query_heads * d, seed());
    const auto keys = correlated_matrix<Scalar>(tokens, shape_.kv_heads * d, seed());
    const auto values = random_matrix<Scalar>(tokens, shape_.kv_heads * d, seed());
    std::vector<std::uint8_t> mask;
    if (below(4) == 0) {  // padding on the left, up to all tokens
      mask.assign(static_cast<std::size_t>(tokens), 1);
      std::fill_n(mask.begin(), below(tokens + 1), std::uint8_t{0});
    } else if (below(8) == 0) {  // and anywhere
      for (Index i = 0; i < tokens; ++i) mask.push_back(below(5) != 0);
    }
    CallOptions options = of(sequence);
    options.mask = mask;
    if (below(8) != 0) options.fit = FitQueries::accumulate;
    log("update layer " + std::to_string(layer) + " sequence " + std::to_string(sequence) + " by " +
        std::to_string(tokens) + (options.fit == FitQueries::accumulate ? ", accumulate" : ""));
    cache_.update(layer, Queries(queries), Keys(keys), Values(values), options);
    reference_.update(layer, sequence, keys, values, queries, mask, options.fit);
  }

  void flush(Index layer, Index sequence) {
    log("flush layer " + std::to_string(layer) + " sequence " + std::to_string(sequence));
    cache_.flush(layer, of(sequence));
    reference_.flush(layer, sequence);
  }

  void truncate(Index sequence) {
    Index shortest = cache_.size(0, of(sequence));
    for (Index layer = 1; layer < shape_.layers; ++layer)
      shortest = std::min(shortest, cache_.size(layer, of(sequence)));
    // Often into the residual, sometimes to nothing, else anywhere.
    const Index choice = below(8);
    const Index size = choice == 0  ? 0
                       : choice < 4 ? std::max(shortest - below(30), Index{0})
                                    : below(shortest + 1);
    log("truncate sequence " + std::to_string(sequence) + " to " + std::to_string(size));
    cache_.truncate(size, of(sequence));
    for (Index layer = 0; layer < shape_.layers; ++layer)
      reference_.layer(layer, sequence).truncate(size);
  }

  void fork(Index from, Index to) {
    log("fork sequence " + std::to_string(from) + " to " + std::to_string(to));
    cache_.fork(from, to);
    reference_.fork(from, to);
  }

  /// Changes nothing, which compare() sees.
  void attend(Index layer, Index sequence) {
    const Index size = cache_.size(layer, of(sequence));
    if (size == 0) return;
    log("attend");
    const auto queries = random_matrix<Scalar>(1 + below(std::min<Index>(size, 20)),
                                               shape_.query_heads * shape_.head_dim, seed());
    Matrix<Scalar> out(queries.rows(), queries.cols());
    cache_.attend(layer, queries, out, of(sequence));
  }

  void clear() {
    log("clear");
    cache_.clear();
    reference_.clear();
  }

  void compare() {
    for (Index layer = 0; layer < shape_.layers; ++layer)
      for (Index sequence = 0; sequence < cache_.sequences(); ++sequence) {
        const auto& expected = reference_.layer(layer, sequence);
        const CallOptions options = of(sequence);
        ASSERT_EQ(cache_.size(layer, options), expected.size());
        EXPECT_TRUE(same_bytes(cache_.keys(layer, options), expected.keys()))
            << "layer " << layer << ", sequence " << sequence;
        EXPECT_TRUE(same_bytes(cache_.values(layer, options), expected.values()))
            << "layer " << layer << ", sequence " << sequence;
        most_tokens_ = std::max(most_tokens_, expected.size());
      }
  }

  ModelShape shape_;
  SQuatCache<Scalar, KeyBits, ValueBits> cache_;
  ReferenceCache<Scalar, KeyBits, ValueBits> reference_;
  std::mt19937 random_;
  Index most_tokens_ = 0;
  std::string log_;
};

template <class Scalar, int KeyBits, int ValueBits>
void expect_every_interleaving_agrees(const ModelShape& shape, const Config& config,
                                      Index sequences) {
  Index most_tokens = 0;
  for (unsigned seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Interleaving<Scalar, KeyBits, ValueBits> interleaving(shape, config, sequences, seed);
    interleaving.run(80);
    most_tokens = std::max(most_tokens, interleaving.most_tokens());
  }
  EXPECT_GE(most_tokens, 4 * config.residual_length);  // or little was quantized
}

Config feedback_everywhere() {
  Config config;
  config.quant_group_size = 2;
  config.squat_lambda = 0.1;
  config.subspace_dim = 3;
  return config;
}

TEST(CacheInterleaving, OneSequence) {
  expect_every_interleaving_agrees<float, 2, 2>({1, 4, 2, 16}, feedback_everywhere(), 1);
}

TEST(CacheInterleaving, SequencesThatShareASubspace) {
  expect_every_interleaving_agrees<float, 2, 2>({2, 2, 1, 8}, feedback_everywhere(), 3);
}

TEST(CacheInterleaving, SequencesWithSubspacesOfTheirOwn) {
  Config config = feedback_everywhere();
  config.shared_svd = false;
  expect_every_interleaving_agrees<float, 2, 2>({2, 2, 1, 8}, config, 3);
}

TEST(CacheInterleaving, ResidualOfTwoBlocks) {
  Config config = feedback_everywhere();
  config.residual_length = 64;
  config.backend = Backend::hqq;
  for (const bool rolls : {false, true}) {
    config.rolling_residual = rolls;
    expect_every_interleaving_agrees<float, 2, 2>({1, 1, 1, 24}, config, 2);
  }
}

Config scales_per_token(Index residual_length, Index quant_group_size) {
  Config config = feedback_everywhere();
  config.key_scales = KeyScales::per_token;
  config.residual_length = residual_length;
  config.quant_group_size = quant_group_size;
  return config;
}

TEST(CacheInterleaving, ScalesPerTokenWithoutResidual) {
  expect_every_interleaving_agrees<float, 2, 2>({1, 2, 1, 40}, scales_per_token(0, 1), 2);
}

TEST(CacheInterleaving, ScalesPerTokenOfRotatedKeys) {
  Config config = scales_per_token(0, 8);
  config.rotate_keys = config.rotate_values = true;
  expect_every_interleaving_agrees<float, 3, 2>({1, 2, 1, 40}, config, 1);
}

TEST(CacheInterleaving, ScalesPerTokenBehindAWindow) {
  Config config = scales_per_token(21, 2);
  config.backend = Backend::unbiased;
  config.shared_svd = false;
  expect_every_interleaving_agrees<Eigen::half, 4, 2>({2, 2, 1, 40}, config, 2);
}

TEST(CacheInterleaving, ScalesPerTokenOfDoubles) {
  expect_every_interleaving_agrees<double, 3, 8>({1, 2, 2, 40}, scales_per_token(70, 3), 1);
}

TEST(CacheInterleaving, DoublesInLongBlocks) {
  Config config = feedback_everywhere();
  config.token_group_size = config.residual_length = 64;
  config.scale_bits = 32;
  expect_every_interleaving_agrees<double, 3, 8>({1, 2, 2, 8}, config, 2);
}

TEST(CacheInterleaving, Halves) {
  expect_every_interleaving_agrees<Eigen::half, 4, 3>({1, 2, 1, 40}, feedback_everywhere(), 1);
}

}  // namespace
}  // namespace squat::testing
