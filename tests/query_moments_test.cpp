// Moments of queries in files, and caches that are calibrated with them.
#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>
#include <limits>
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

/// Q^T Q of `rows` in double precision.
Matrix<double> products(const Rows& rows) {
  const Matrix<double> q = rows.cast<double>();
  return q.transpose() * q;
}

TEST(SecondMoment, CountsAllHeadsOfARow) {
  const Rows queries = correlated_matrix<float>(300, 3 * 20, 8);
  for (const Index rows : {1, 300}) {
    SecondMoment together(20), apart(20);
    together.add<float>(queries.topRows(rows), {}, 3);
    Matrix<double> expected = Matrix<double>::Zero(20, 20);
    for (Index head = 0; head < 3; ++head) {
      const Rows own = queries.topRows(rows).middleCols(20 * head, 20);
      apart.add<float>(own);
      expected += products(own);
    }
    EXPECT_EQ(together.sum(), apart.sum());
    EXPECT_EQ(together.count(), 3 * rows);
    EXPECT_LT((together.sum() - expected).norm(), 1e-6 * expected.norm());
    EXPECT_EQ(together.sum(), together.sum().transpose());
  }
}

TEST(SecondMoment, AddsNothingOfWhatItRefuses) {
  SecondMoment moment(20);
  Rows queries = correlated_matrix<float>(5, 2 * 20, 8);
  moment.add<float>(queries, {}, 2);
  const Matrix<double> before = moment.sum();
  std::vector<std::uint8_t> mask(5, 1);
  EXPECT_ERROR(moment.add<float>(queries), "40 columns", "head_dim 20");
  EXPECT_ERROR(moment.add<float>(queries, Mask(mask.data(), 4), 2), "mask has 4");
  queries(3, 35) = std::numeric_limits<float>::infinity();
  EXPECT_ERROR(moment.add<float>(queries, {}, 2), "not finite", "row 3");
  EXPECT_EQ(moment.sum(), before);
  EXPECT_EQ(moment.count(), 10);
  mask[3] = 0;
  moment.add<float>(queries, mask, 2);
  EXPECT_EQ(moment.count(), 18);
}

TEST(GatheredQueries, FewThatJoinDirectionsAreAllThere) {
  const Rows queries = correlated_matrix<float>(5, 16, 3);
  for (const float size : {0x1p-60f, 1.0f, 0x1p60f}) {
    const Rows rows = size * queries;
    GatheredQueries joined = GatheredQueries::no_directions(5, 16);
    for (const Index first : {0, 1, 3})
      joined.join<float>(rows.middleRows(first, first == 0 ? 1 : 2));
    const Matrix<double> expected = products(rows);
    const Matrix<double> found =
        joined.directions().cast<double>().transpose() * joined.directions().cast<double>();
    EXPECT_LT((found - expected).norm(), 1e-5 * expected.norm()) << size;
    EXPECT_NEAR(joined.trace() / expected.trace(), 1, 1e-6);
    EXPECT_EQ(joined.count(), 5);
  }
}

TEST(GatheredQueries, OfManyThatJoinTheLeadingOnesStay) {
  const Rows queries = correlated_matrix<float>(192, 16, 4);
  GatheredQueries joined = GatheredQueries::no_directions(4, 16);
  for (Index first = 0; first < 192; first += 3) joined.join<float>(queries.middleRows(first, 3));
  const Matrix<double> moment = products(queries);
  const double most =
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(moment).eigenvalues().tail(4).sum();
  const double kept = joined.directions().cast<double>().squaredNorm();
  EXPECT_LT(kept, most);
  EXPECT_GT(kept, 0.9 * most);
  const Rows huge = Rows::Constant(1, 16, 0x1p125f);
  const Matrix<float> before = joined.directions();
  EXPECT_ERROR(joined.join<float>(huge), "2^240");
  EXPECT_EQ(joined.directions(), before);
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
