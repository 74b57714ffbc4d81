// Configurations drawn at random: whatever is allowed works together.
#include <gtest/gtest.h>

#include <random>

#include "dense_attention.hpp"
#include "rotated.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}

  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[random_() % choices.size()];
  }

  Config config() {
    Config config;
    config.backend = of({Backend::quanto, Backend::hqq, Backend::unbiased});
    config.quant_group_size = of<Index>({1, 2, 3, 4, 8, 12, 16, 64});
    config.token_group_size = of<Index>({32, 64, 128});
    config.residual_length = config.token_group_size * of<Index>({1, 2});
    config.squat_lambda = of({0.0, 0.001, 1.0, 3.0});
    config.subspace_dim = of<Index>({1, 5, 16, 512});
    config.scale_bits = of({8, 16, 32});
    config.normalised_lambda = of({true, false});
    config.adaptive_bits = of({true, false});
    config.key_bits = config.adaptive_bits ? of({1.5, 2.3, 3.0, 4.75, 7.0, 8.0})
                                           : of({1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0});
    config.value_bits = of({1, 2, 3, 4, 8});
    config.value_group_size = of<Index>({0, 32, 64, 128, 256, 512});
    config.value_grid = of({ValueGrid::min_max, ValueGrid::symmetric});
    config.rotate_values = of({true, false});
    config.exact_tokens = of<Index>({0, 1, 5});
    config.query_decay = of({0.0, 0.99, 1.0});
    return config;
  }

  ModelShape shape() {
    const Index kv_heads = of<Index>({1, 2, 3});
    return {1, kv_heads * of<Index>({1, 2, 5}), kv_heads, of<Index>({8, 16, 24, 40, 64, 80, 128})};
  }

  /// Half of them turn nothing.
  Rope rope() {
    Rope rope;
    rope.pairing =
        of({RopePairing::none, RopePairing::none, RopePairing::halves, RopePairing::interleaved});
    rope.dims = of<Index>({0, 2, 6, 8});
    rope.base = of({10000.0, 500.0});
    return rope;
  }

 private:
  std::mt19937 random_;
};

template <class Scalar>
void expect_agreement(unsigned seed) {
  Draw draw(seed);
  ModelShape shape = draw.shape();
  Config config = draw.config();
  shape.rope = draw.rope();
  if (shape.rope.pairing != RopePairing::none)
    config.subspace_queries = draw.of({SubspaceQueries::after_rope, SubspaceQueries::before_rope});
  SCOPED_TRACE(::testing::Message()
               << "seed " << seed << ", head_dim " << shape.head_dim << ", backend "
               << static_cast<int>(config.backend) << ", step " << config.quant_group_size
               << ", key bits " << config.key_bits << ", value bits " << config.value_bits
               << ", scale bits " << config.scale_bits << ", groups of " << config.token_group_size
               << ", pairing " << static_cast<int>(shape.rope.pairing));
  const Index tokens = 330, width = shape.kv_heads * shape.head_dim;
  const auto queries = correlated_matrix<Scalar>(tokens, shape.query_heads * shape.head_dim, seed);
  const auto keys = correlated_matrix<Scalar>(tokens, width, seed + 1);
  const auto values = correlated_matrix<Scalar>(tokens, width, seed + 2);
  std::vector<std::uint8_t> valid(static_cast<std::size_t>(tokens), 1);
  for (int t = 0; t < draw.of({0, 3, 40}); ++t) valid[static_cast<std::size_t>(t)] = 0;
  SQuatCache<Scalar, 2> cache(shape, config);
  const auto feed_rows = [&](Index first, Index count) {
    CallOptions options;
    options.mask = Mask(valid.data() + first, count);
    cache.update(0, keys.middleRows(first, count), values.middleRows(first, count),
                 queries.middleRows(first, count), options);
    cache.flush(0);
  };
  feed_rows(0, 200);
  for (Index t = 200; t < 300; ++t) feed_rows(t, 1);
  cache.truncate(290);
  feed_rows(290, 40);
  ASSERT_EQ(cache.size(0), tokens);

  const Matrix<Scalar> stored_keys = cache.keys(0), stored_values = cache.values(0);
  ASSERT_TRUE(stored_keys.template cast<double>().allFinite());
  ASSERT_TRUE(stored_values.template cast<double>().allFinite());
  const Matrix<Scalar> newest = queries.bottomRows(2);
  Matrix<Scalar> out(2, newest.cols());
  cache.attend(0, newest, out);
  const Matrix<double> turned = rotated<Scalar>(shape, newest, tokens - 2);
  const Matrix<double> expected =
      dense_attention<double>(shape, turned, rotated<Scalar>(shape, stored_keys),
                              stored_values.template cast<double>(), valid);
  const Matrix<double> full = dense_attention<double>(shape, turned, rotated<Scalar>(shape, keys),
                                                      values.template cast<double>(), valid);
  // Arithmetic is not what limits quality.
  const double allowed = std::max(0.15 * (expected - full).norm(), 0.02 * expected.norm());
  EXPECT_LE((out.template cast<double>() - expected).norm(), allowed);
}

TEST(EveryConfig, FloatsAgreeWithWhatIsStored) {
  for (unsigned seed = 0; seed < 40; ++seed) expect_agreement<float>(seed);
}

TEST(EveryConfig, DoublesAgreeWithWhatIsStored) {
  for (unsigned seed = 100; seed < 110; ++seed) expect_agreement<double>(seed);
}

TEST(EveryConfig, HalvesAgreeWithWhatIsStored) {
  for (unsigned seed = 200; seed < 210; ++seed) expect_agreement<Eigen::half>(seed);
}

}  // namespace
}  // namespace squat::testing
