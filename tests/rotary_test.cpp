// Rotary position embedding: the rotation itself, and caches that apply it.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "dense_attention.hpp"
#include "expect_error.hpp"
#include "rotated.hpp"
#include "small_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

ModelShape shape_with(RopePairing pairing, Index dims = 0, std::vector<double> factors = {}) {
  ModelShape with_rope = shape;
  with_rope.rope.pairing = pairing;
  with_rope.rope.dims = dims;
  with_rope.rope.factors = std::move(factors);
  return with_rope;
}

/// Every kind of rope at head_dim 16.
std::vector<ModelShape> shapes() {
  std::vector<ModelShape> all;
  for (const RopePairing pairing : {RopePairing::halves, RopePairing::interleaved}) {
    all.push_back(shape_with(pairing));
    all.push_back(shape_with(pairing, 6));
    all.push_back(shape_with(pairing, 8, {1, 1.5, 4, 0.25}));
    all.back().rope.base = 500;
  }
  return all;
}

double max_error(const Matrix<double>& a, const Matrix<double>& b) {
  return (a - b).cwiseAbs().maxCoeff();
}

// ---- The rotation ----

template <class Real>
double error_of_walk(const ModelShape& shape, Index first, const std::vector<Index>& runs) {
  const RopeTable table(shape.rope, shape.head_dim);
  RopeWalk<Real> walk(table);
  double error = 0;
  for (const Index rows : runs) {
    Matrix<Real> data = random_matrix<Real>(rows, 3 * shape.head_dim, static_cast<unsigned>(rows));
    const Matrix<double> expected = rotated<Real>(shape, data, first);
    walk.rotate(first, data.data(), rows, data.cols());
    error = std::max(error, max_error(data.template cast<double>(), expected));
    first += rows;
  }
  return error;
}

TEST(Rotary, TurnsAsTheFormulaSays) {
  for (const ModelShape& shape : shapes())
    for (const Index first : {0, 1, 77, 1000000}) {
      const double far = static_cast<double>(first);
      EXPECT_LE(error_of_walk<double>(shape, first, {1, 31, 32, 33, 100}), 5e-14 + 1e-15 * far);
      EXPECT_LE(error_of_walk<float>(shape, first, {1, 31, 32, 33, 100}), 1e-6);
    }
}

TEST(Rotary, IsExactAfterAMillionPositions) {
  ModelShape shape{1, 1, 1, 8};
  shape.rope.pairing = RopePairing::halves;
  const RopeTable table(shape.rope, 8);
  RopeWalk<double> walk(table);
  Matrix<double> rows(100, 8);
  for (Index position = 0; position < 1000000; position += 100) {
    rows.setOnes();
    walk.rotate(position, rows.data(), 100, 8);
  }
  EXPECT_LE(max_error(rows, rotated<double>(shape, Matrix<double>::Ones(100, 8), 1000000 - 100)),
            1e-9);
}

TEST(Rotary, GoesWhereverItIsTold) {
  const ModelShape shape = shape_with(RopePairing::interleaved);
  const RopeTable table(shape.rope, shape.head_dim);
  RopeWalk<double> walk(table);
  for (const Index position : {40, 3, 3, 4, 123456, 0}) {
    Matrix<double> row = random_matrix(1, 16, 5);
    const Matrix<double> expected = rotated<double>(shape, row, position);
    walk.rotate(position, row.data(), 1, 16);
    EXPECT_LE(max_error(row, expected), 1e-10) << position;
  }
}

TEST(Rotary, RefusesWhatIsNotAllowed) {
  const auto check_with = [](auto change, Index head_dim = 16) {
    Rope rope;
    rope.pairing = RopePairing::halves;
    change(rope);
    ModelShape shape{1, 4, 2, head_dim};
    shape.rope = rope;
    check(shape);
  };
  EXPECT_ERROR(check_with([](Rope& r) { r.pairing = static_cast<RopePairing>(3); }),
               "rope.pairing is 3", "none (0), halves (1) or interleaved (2)");
  for (const Index dims : {-2, 7, 18})
    EXPECT_ERROR(check_with([&](Rope& r) { r.dims = dims; }), "rope.dims is",
                 std::to_string(dims).c_str(), "even and at most head_dim - first (16)");
  for (const Index first : {-2, 3, 16})
    EXPECT_ERROR(check_with([&](Rope& r) { r.first = first; }), "rope.first is",
                 std::to_string(first).c_str(), "even and below head_dim (16)");
  EXPECT_ERROR(check_with([](Rope& r) { r.first = 4, r.dims = 14; }), "head_dim - first (12)");
  EXPECT_ERROR(check_with([](Rope& r) { r.first = 2; }, 15), "head_dim - first (13)", "odd");
  check_with([](Rope& r) { r.dims = 14; }, 15);
  for (const double base : {0.0, -1.0, std::numeric_limits<double>::infinity()})
    EXPECT_ERROR(check_with([&](Rope& r) { r.base = base; }), "rope.base is", "positive");
  EXPECT_ERROR(check_with([](Rope& r) { r.factors = {1, 1}; }), "rope.factors has 2", "8 pairs");
  EXPECT_ERROR(check_with([](Rope& r) { r.factors.assign(8, -2); }), "rope.factors holds -2",
               "positive");
  EXPECT_ERROR(RopeTable(Rope{}, 16), "rope.pairing is none");
  check_with([](Rope& r) { r.dims = 4, r.factors = {2, 3}; });
}

// ---- Caches ----

/// A cache of `Scalar`s that was given `tokens` one chunk after another.
template <class Scalar, int Bits>
SQuatCache<Scalar, Bits> filled(const ModelShape& shape, const Config& config,
                                const Matrix<double>& queries, const Matrix<double>& keys,
                                const Matrix<double>& values, const std::vector<Index>& chunks,
                                const std::vector<std::uint8_t>& valid = {}) {
  SQuatCache<Scalar, Bits> cache(shape, config);
  Index first = 0;
  for (const Index count : chunks) {
    CallOptions options;
    if (!valid.empty()) options.mask = Mask(valid.data() + first, count);
    options.fit = FitQueries::accumulate;
    const auto part = [&](const Matrix<double>& all) {
      return Matrix<Scalar>(all.middleRows(first, count).template cast<Scalar>());
    };
    cache.update(0, Queries(part(queries)), Keys(part(keys)), Values(part(values)), options);
    cache.flush(0, {options.sequence});
    first += count;
  }
  return cache;
}

struct Case {
  Matrix<double> queries = correlated_matrix(200, query_width, 1);
  Matrix<double> keys = 0.3 * correlated_matrix(200, key_width, 2);  // logits of a few units
  Matrix<double> values = random_matrix(200, key_width, 3);
};

template <class Scalar, int Bits>
Matrix<double> attended(const SQuatCache<Scalar, Bits>& cache, const Matrix<double>& queries) {
  Matrix<Scalar> out(queries.rows(), queries.cols());
  cache.attend(0, Matrix<Scalar>(queries.template cast<Scalar>()), out);
  return out.template cast<double>();
}

Config all_exact() {
  Config config;
  config.residual_length = 256;
  return config;
}

TEST(CacheBeforeRope, EqualsOneOfRotatedTokensWhileAllIsExact) {
  const Case c;
  for (const ModelShape& turning : shapes()) {
    const auto before =
        filled<double, 2>(turning, all_exact(), c.queries, c.keys, c.values, {150, 1, 49});
    const Matrix<double> queries = rotated(turning, c.queries);
    const auto after =
        filled<double, 2>(shape, all_exact(), queries, rotated(turning, c.keys), c.values, {200});
    EXPECT_EQ(before.keys(0), c.keys);
    for (const Index rows : {1, 3, 100, 200})
      EXPECT_LE(max_error(attended(before, c.queries.bottomRows(rows)),
                          attended(after, queries.bottomRows(rows))),
                1e-12);
  }
}

template <class Scalar>
void expect_rotates_what_it_stores(double tolerance) {
  const Case c;
  const Matrix<Scalar> queries = c.queries.template cast<Scalar>();
  for (const ModelShape& turning : shapes()) {
    const auto cache =
        filled<Scalar, 2>(turning, strong_feedback(), c.queries, c.keys, c.values, {150, 1, 1, 48});
    const Matrix<double> keys = rotated(turning, cache.keys(0));
    const Matrix<double> values = cache.values(0).template cast<double>();
    for (const Index rows : {1, 2, 70}) {
      const Matrix<double> turned =
          rotated(turning, Matrix<Scalar>(queries.bottomRows(rows)), 200 - rows);
      const Matrix<double> expected = dense_attention(turning, turned, keys, values);
      EXPECT_LE(max_error(attended(cache, c.queries.bottomRows(rows)), expected),
                tolerance * expected.cwiseAbs().maxCoeff());
    }
  }
}

TEST(CacheBeforeRope, RotatesWhatItStores) {
  expect_rotates_what_it_stores<float>(2e-5);
  expect_rotates_what_it_stores<double>(1e-12);
  expect_rotates_what_it_stores<Eigen::half>(1e-2);
  expect_rotates_what_it_stores<Eigen::bfloat16>(5e-2);
}

TEST(CacheBeforeRope, IsNearFullPrecisionAtEightBits) {
  const Case c;
  Config config;
  config.scale_bits = 32;
  for (const ModelShape& turning : shapes()) {
    const auto cache = filled<float, 8>(turning, config, c.queries, c.keys, c.values, {200});
    const Matrix<double> exact =
        dense_attention(turning, rotated(turning, c.queries), rotated(turning, c.keys), c.values);
    EXPECT_LE((attended(cache, c.queries) - exact).norm(), 0.05 * exact.norm());
  }
}

TEST(CacheBeforeRope, SlotsCountWhatWasTruncated) {
  const Case c;
  const ModelShape turning = shape_with(RopePairing::halves);
  auto cache =
      filled<double, 2>(turning, strong_feedback(), c.queries, c.keys, c.values, {150, 50});
  cache.truncate(75);  // in the middle of a block
  const Case again{random_matrix(60, query_width, 4), random_matrix(60, key_width, 5),
                   random_matrix(60, key_width, 6)};
  cache.update(0, Queries(again.queries), Keys(again.keys), Values(again.values));
  cache.flush(0);
  const Matrix<double> expected = dense_attention(turning, rotated(turning, again.queries, 75),
                                                  rotated(turning, cache.keys(0)), cache.values(0));
  EXPECT_LE(max_error(attended(cache, again.queries), expected), 1e-12);
}

TEST(CacheBeforeRope, QueriesTurnToTheirPosition) {
  const Case c;
  for (const ModelShape& turning : shapes()) {
    const auto cache =
        filled<double, 2>(turning, strong_feedback(), c.queries, c.keys, c.values, {200});
    const Matrix<double> keys = rotated(turning, cache.keys(0)), values = cache.values(0);
    for (const Index position : {0, 31, 150}) {
      CallOptions options;
      options.position = position;
      const Matrix<double> queries = c.queries.middleRows(position, 5);
      Matrix<double> out(5, query_width);
      cache.attend(0, queries, out, options);
      const Matrix<double> expected =
          dense_attention<double>(turning, rotated(turning, queries, position),
                                  keys.topRows(position + 5), values.topRows(position + 5));
      EXPECT_LE(max_error(out, expected), 1e-12);
    }
  }
}

TEST(CacheBeforeRope, ForksGoOnWhereTheyBranched) {
  const Case c;
  const ModelShape turning = shape_with(RopePairing::interleaved);
  SQuatCache<double, 2> cache(turning, strong_feedback(), 2);
  cache.update(0, Queries(c.queries.topRows(100)), Keys(c.keys.topRows(100)),
               Values(c.values.topRows(100)));
  cache.flush(0);
  cache.fork(0, 1);
  for (const Index first : {100, 150}) {  // another continuation each
    const CallOptions options = sequence(first / 50 - 2);
    const Matrix<double> queries = c.queries.middleRows(first, 50);
    cache.update(0, Queries(queries), Keys(c.keys.middleRows(first, 50)),
                 Values(c.values.middleRows(first, 50)), options);
    cache.flush(0, {options.sequence});
    Matrix<double> out(50, query_width);
    cache.attend(0, queries, out, options);
    const Matrix<double> expected = dense_attention<double>(
        turning, rotated(turning, queries, 100),
        rotated(turning, cache.keys(0, {options.sequence})), cache.values(0, {options.sequence}));
    EXPECT_LE(max_error(out, expected), 1e-12);
  }
}

TEST(CacheBeforeRope, PaddingOnTheLeftChangesNothing) {
  const Case c;
  const Index padding = 37;
  std::vector<std::uint8_t> valid(200 + padding, 1);
  std::fill_n(valid.begin(), padding, std::uint8_t{0});
  const auto padded = [&](const Matrix<double>& rows) {
    Matrix<double> all = Matrix<double>::Constant(200 + padding, rows.cols(), 1e300);
    all.bottomRows(200) = rows;
    return all;
  };
  for (const ModelShape& turning : shapes()) {
    const auto plain = filled<double, 2>(turning, all_exact(), c.queries, c.keys, c.values, {200});
    const auto shifted = filled<double, 2>(turning, all_exact(), padded(c.queries), padded(c.keys),
                                           padded(c.values), {200 + padding}, valid);
    EXPECT_LE(max_error(attended(shifted, c.queries), attended(plain, c.queries)), 1e-12);
  }
}

TEST(CacheBeforeRope, QueriesBeforeOrAfterFitTheMetric) {
  const Case c;
  const ModelShape turning = shape_with(RopePairing::interleaved);
  // What a cache stores that takes its metric from `queries` as they are.
  const auto stored = [&](const Matrix<double>& queries) {
    return filled<double, 2>(shape, strong_feedback(), queries, c.keys, c.values, {200}).keys(0);
  };
  // Sums of moments in another order may move a code that is near a tie.
  const auto distance = [](const Matrix<double>& a, const Matrix<double>& b) {
    return (a - b).norm() / b.norm();
  };
  Config config = strong_feedback();
  for (const std::vector<Index>& chunks : {std::vector<Index>{200}, {30, 1, 169}}) {
    config.subspace_queries = SubspaceQueries::after_rope;
    const Matrix<double> after =
        filled<double, 2>(turning, config, c.queries, c.keys, c.values, chunks).keys(0);
    config.subspace_queries = SubspaceQueries::before_rope;
    const Matrix<double> before =
        filled<double, 2>(turning, config, c.queries, c.keys, c.values, chunks).keys(0);
    if (chunks.size() == 1) {
      EXPECT_EQ(before, stored(c.queries));
      EXPECT_LE(distance(after, stored(rotated(turning, c.queries))), 0.01);
    }
    EXPECT_GT(distance(before, after), 0.1);
  }
}

TEST(CacheBeforeRope, BeforeRopeNeedsARope) {
  Config config;
  config.subspace_queries = SubspaceQueries::before_rope;
  EXPECT_ERROR(Cache(shape, config), "config.subspace_queries is before_rope", "applies no rope");
}

}  // namespace
}  // namespace squat::testing
