// Moments of queries in files, and caches that are calibrated with them.
#include <gtest/gtest.h>

#include <sstream>
#include <string>

#include "expect_error.hpp"
#include "small_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

const ModelShape two_layers{2, 4, 2, 16};

QueryMoments some_moments() {
  QueryMoments moments(two_layers);
  for (Index layer = 0; layer < 2; ++layer)
    moments.add<float>(layer, correlated_matrix<float>(90, 4 * 16, static_cast<unsigned>(layer)));
  return moments;
}

std::string written(const QueryMoments& moments) {
  std::ostringstream out;
  moments.save(out);
  return out.str();
}

QueryMoments loaded(const std::string& bytes, const ModelShape& shape = two_layers) {
  std::istringstream in(bytes);
  return QueryMoments::load(in, shape);
}

TEST(QueryMoments, ComeBackFromAFile) {
  const QueryMoments moments = some_moments(), again = loaded(written(moments));
  for (Index layer = 0; layer < 2; ++layer)
    for (Index head = 0; head < 2; ++head) {
      EXPECT_EQ(again.moment(layer, head).count(), 180);  // two query heads of 90 tokens
      EXPECT_EQ(again.moment(layer, head).sum(), moments.moment(layer, head).sum());
    }
  EXPECT_EQ(written(moments).size(), 8 + 8 + 2 * 16 + 4 * (8 + 8 * 16 * 17 / 2) + 8u);
}

TEST(QueryMoments, EveryAlteredByteIsFound) {
  const std::string bytes = written(some_moments());
  for (std::size_t i = 0; i < bytes.size(); i += i < 64 ? 1 : 97) {
    std::string altered = bytes;
    altered[i] = static_cast<char>(altered[i] ^ 0x40);
    EXPECT_THROW(loaded(altered), Error) << "byte " << i;
  }
}

TEST(QueryMoments, EveryShorterFileIsRefused) {
  const std::string bytes = written(some_moments());
  for (std::size_t size = 0; size < bytes.size(); size += 13)
    EXPECT_ERROR(loaded(bytes.substr(0, size)), "cut short");
}

TEST(QueryMoments, FilesOfAnotherShapeAreRefused) {
  const std::string bytes = written(some_moments());
  EXPECT_ERROR(loaded(bytes, {3, 4, 2, 16}), "layers = 2", "3");
  EXPECT_ERROR(loaded(bytes, {2, 4, 4, 16}), "kv_heads = 2", "4");
  EXPECT_ERROR(loaded(bytes, {2, 4, 2, 24}), "head_dim = 16", "24");
  EXPECT_ERROR(loaded("SQUATQM1" + bytes.substr(8)), "SQUATQM3");
}

TEST(QueryMoments, OfLayersThatDiffer) {
  ModelShape mixed{2, 4, 2, 16};
  mixed.by_layer.assign(2, mixed);
  mixed.by_layer[1].kv_heads = 1;
  mixed.by_layer[1].head_dim = 24;
  QueryMoments moments(mixed);
  moments.add<float>(0, correlated_matrix<float>(30, 4 * 16, 1));
  moments.add<float>(1, correlated_matrix<float>(30, 4 * 24, 2));
  const QueryMoments again = loaded(written(moments), mixed);
  for (const auto& [layer, head] : {std::pair<Index, Index>{0, 0}, {0, 1}, {1, 0}})
    EXPECT_EQ(again.moment(layer, head).sum(), moments.moment(layer, head).sum());
  EXPECT_EQ(again.moment(1, 0).count(), 120);
  EXPECT_EQ(again.moment(1, 0).head_dim(), 24);
  EXPECT_ERROR(again.moment(1, 1), "layer 1, kv head 1 is outside");
  EXPECT_ERROR(moments.add<float>(1, correlated_matrix<float>(3, 4 * 16, 1)), "4 heads of 24");
  EXPECT_ERROR(loaded(written(moments)), "kv_heads = 1", "2");
}

/// A file of version 2, which said once what all layers have.
std::string version_2(const QueryMoments& moments) {
  std::ostringstream out;
  detail::ByteWriter writer(out);
  writer.array("SQUATQM2", 8);
  for (const Index number : {2, 2, 16}) writer.number(number);
  for (Index layer = 0; layer < 2; ++layer)
    for (Index head = 0; head < 2; ++head) detail::write(writer, moments.moment(layer, head));
  writer.finish();
  return out.str();
}

TEST(QueryMoments, FilesOfVersion2AreRead) {
  const QueryMoments moments = some_moments();
  EXPECT_EQ(written(loaded(version_2(moments))), written(moments));
  ModelShape mixed = two_layers;
  mixed.by_layer.assign(2, mixed);
  mixed.by_layer[1].kv_heads = 1;
  EXPECT_ERROR(loaded(version_2(moments), mixed), "layers that are alike",
               "layer 1 of the model has 1 kv heads");
}

TEST(QueryMoments, ThoseOfPartsAddUp) {
  const Rows queries = correlated_matrix<float>(512, 4 * 16, 1);
  QueryMoments whole(two_layers), sum(two_layers), second_half(two_layers);
  for (Index layer = 0; layer < 2; ++layer) {
    whole.add<float>(layer, queries);
    sum.add<float>(layer,
                   queries.topRows(256));  // the chunk that a moment sums in single precision
    second_half.add<float>(layer, queries.bottomRows(256));
  }
  sum.add(second_half);
  EXPECT_EQ(written(sum), written(whole));
  for (const ModelShape& other : {ModelShape{1, 4, 2, 16}, {2, 4, 1, 16}, {2, 4, 2, 8}})
    EXPECT_ERROR(sum.add(QueryMoments(other)), "other moments", "these for 2");
  EXPECT_EQ(written(sum), written(whole));
  const SecondMoment huge(Matrix<double>::Constant(4, 4, 1e308), 1);
  SecondMoment twice = huge;
  EXPECT_ERROR(twice.add(huge), "not finite");
  EXPECT_ERROR(twice.add(SecondMoment(8)), "head_dim 8", "4");
  EXPECT_EQ(twice.sum(), huge.sum());
  EXPECT_EQ(twice.count(), 1);
}

TEST(GatheredQueries, KeepTheirTraceBesideLeadingDirections) {
  SecondMoment moment(16);
  moment.add<float>(correlated_matrix<float>(200, 16, 5));
  GatheredQueries queries(moment);
  Config config;
  config.subspace_dim = 3;
  queries.keep_leading(LayerSettings(config));
  ASSERT_TRUE(queries.has_directions());
  const double trace = moment.sum().trace();
  EXPECT_NEAR(queries.trace(), trace, 1e-3 * trace);
  EXPECT_NEAR(queries.moment().sum().trace(), trace, 1e-3 * trace);
}

TEST(Calibrate, ReplacesTheFitOfThePrompt) {
  const Tokens prompt(200, 3), other(200, 4);
  const ModelShape one{1, 4, 2, 16};
  QueryMoments moments(one);
  moments.add<float>(0, prompt.queries);
  const auto keys = [&](bool calibrated, const Rows& queries) {
    Cache cache(one, strong_feedback());
    if (calibrated) cache.calibrate(moments);
    cache.update(0, Queries(queries), Keys(prompt.keys), Values(prompt.values));
    cache.flush(0);
    return cache.keys(0);
  };
  const Rows fitted = keys(false, prompt.queries);
  EXPECT_FALSE(same(keys(false, other.queries), fitted));
  EXPECT_TRUE(same(keys(true, other.queries), fitted));
  EXPECT_TRUE(same(keys(true, prompt.queries), fitted));
}

TEST(Calibrate, RefusesWhatDoesNotFit) {
  Cache cache(two_layers);
  EXPECT_ERROR(cache.calibrate(QueryMoments(ModelShape{1, 4, 2, 16})), "for 2 layers",
               "moments are for 1");
  EXPECT_ERROR(cache.calibrate(QueryMoments(two_layers)), "no queries");
  const Tokens tokens(10, 5);
  cache.update(1, Queries(tokens.queries), Keys(tokens.keys), Values(tokens.values));
  EXPECT_ERROR(cache.calibrate(some_moments()), "layer 1", "holds tokens");
  cache.clear();
  cache.calibrate(some_moments());
  EXPECT_GT(cache.memory().subspace, 0);
  cache.clear();
  EXPECT_EQ(cache.memory().subspace, 0);
}

}  // namespace
}  // namespace squat::testing
