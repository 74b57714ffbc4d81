// Configurations drawn at random: whatever is allowed works together.
#include <gtest/gtest.h>

#include "dense_attention.hpp"
#include "drawn_config.hpp"
#include "rotated.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

/// Of heads of `head_dim`, where it is not 0.
template <class Scalar>
void expect_agreement(unsigned seed, Index head_dim = 0) {
  Draw draw(seed);
  ModelShape shape = draw.shape();
  if (head_dim > 0) shape.head_dim = head_dim;
  Config config = draw.config();
  shape.rope = draw.rope(shape.head_dim);
  if (shape.rope.pairing != RopePairing::none)
    config.subspace_queries = draw.of({SubspaceQueries::after_rope, SubspaceQueries::before_rope});
  SCOPED_TRACE(::testing::Message()
               << "seed " << seed << ", head_dim " << shape.head_dim << ", backend "
               << static_cast<int>(config.backend) << ", step " << config.quant_group_size
               << ", key bits " << config.key_bits << ", value bits " << config.value_bits
               << ", scale bits " << config.scale_bits << ", groups of " << config.token_group_size
               << (config.key_scales == KeyScales::per_token ? ", per token" : "") << ", pairing "
               << static_cast<int>(shape.rope.pairing));
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
    cache.update(0, Queries(queries.middleRows(first, count)), Keys(keys.middleRows(first, count)),
                 Values(values.middleRows(first, count)), options);
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

TEST(EveryConfig, HeadsHaveAnyWidth) {
  unsigned seed = 300;
  for (const Index head_dim : {1, 3, 7, 20, 36, 80, 100, 112, 127})
    for (int i = 0; i < 3; ++i) expect_agreement<float>(seed++, head_dim);
  expect_agreement<double>(seed++, 3);
  expect_agreement<Eigen::half>(seed++, 100);
}

}  // namespace
}  // namespace squat::testing
