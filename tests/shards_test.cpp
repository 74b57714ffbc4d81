// A sequence whose tokens are spread over several caches.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <squat/squat.hpp>
#include <string>
#include <vector>

#include "attended.hpp"
#include "dense_attention.hpp"
#include "random_matrix.hpp"
#include "rotated.hpp"
#include "same_bytes.hpp"

namespace squat::testing {
namespace {

/// Tokens of one sequence, some of them padding.
template <class Scalar>
struct Sequence {
  Sequence(Index tokens, bool padded, bool turned, unsigned seed)
      : queries(random_matrix<Scalar>(tokens, 4 * 32, seed)),
        keys(random_matrix<Scalar>(tokens, 2 * 32, seed + 1000)),
        values(random_matrix<Scalar>(tokens, 2 * 32, seed + 2000)),
        valid(static_cast<std::size_t>(tokens), 1) {
    if (turned) shape.rope.pairing = RopePairing::halves;
    std::mt19937 random(seed);
    if (padded)
      for (std::uint8_t& one : valid) one = random() % 5 != 0;
  }

  Index tokens() const { return keys.rows(); }
  Mask mask(Index first, Index count) const { return {valid.data() + first, count}; }

  ModelShape shape{1, 4, 2, 32};
  Matrix<Scalar> queries, keys, values;
  std::vector<std::uint8_t> valid;
};

/// Caches of which each holds some consecutive tokens: those up to ends[0], from there to
/// ends[1]...
template <class Scalar>
class Shards {
 public:
  using Cache = SQuatCache<Scalar, 2, 3>;

  Shards(const Config& config, const Sequence<Scalar>& sequence, const std::vector<Index>& ends,
         const QueryMoments* moments = nullptr)
      : sequence_(sequence), ends_(ends) {
    for (std::size_t i = 0; i < ends.size(); ++i) {
      caches.emplace_back(sequence.shape, config);
      if (moments != nullptr) caches.back().calibrate(*moments);
      if (first(i) < ends[i]) append(caches.back(), first(i), ends[i]);
    }
  }

  void append(Cache& cache, Index first, Index end) const {
    const Index count = end - first;
    CallOptions options;
    options.mask = sequence_.mask(first, count);
    cache.update(0, Queries(sequence_.queries.middleRows(first, count)),
                 Keys(sequence_.keys.middleRows(first, count)),
                 Values(sequence_.values.middleRows(first, count)), options);
    cache.flush(0);
  }

  /// Quantizes what is in residuals: tokens that follow push it out, and go.
  void seal(Index residual_length) {
    for (std::size_t i = 0; i < caches.size(); ++i) {
      append(caches[i], 0, residual_length);
      caches[i].truncate(ends_[i] - first(i));
    }
  }

  /// The newest `rows` tokens' attention to all of them.
  Attended<Scalar> attend(Index rows) const {
    const ModelShape& shape = sequence_.shape;
    const Index position = sequence_.tokens() - rows;
    MergedAttention<Scalar> merged(shape, rows);
    for (std::size_t i = 0; i < caches.size(); ++i) {
      // Rows of tokens before the shard see none of it.
      const Index blind = std::clamp(first(i) - position, Index{0}, rows), seeing = rows - blind;
      Attended<Scalar> part(shape, rows);
      CallOptions options;
      options.position = position + blind - first(i);
      options.mask = sequence_.mask(position + blind, seeing);
      options.log_sum_exp = part.log_sum_exp.data() + blind * shape.query_heads;
      if (seeing > 0)
        caches[i].attend(0, sequence_.queries.bottomRows(seeing), part.out.bottomRows(seeing),
                         options);
      merged.add(part.out, part.log_sum_exp);
    }
    Attended<Scalar> all(shape, rows);
    merged.write(all.out, all.log_sum_exp.data());
    return all;
  }

  Matrix<Scalar> keys() const { return joined(&Cache::keys); }
  Matrix<Scalar> values() const { return joined(&Cache::values); }

  std::vector<Cache> caches;

 private:
  Index first(std::size_t shard) const { return shard == 0 ? 0 : ends_[shard - 1]; }

  Matrix<Scalar> joined(Matrix<Scalar> (Cache::*what)(Index, const CallOptions&) const) const {
    Matrix<Scalar> all(sequence_.tokens(), sequence_.keys.cols());
    for (std::size_t i = 0; i < caches.size(); ++i)
      all.middleRows(first(i), ends_[i] - first(i)) = (caches[i].*what)(0, {});
    return all;
  }

  const Sequence<Scalar>& sequence_;
  std::vector<Index> ends_;
};

double longest(const Matrix<double>& rows, Index head_dim) {
  double longest = 0;
  for (Index c = 0; c < rows.cols(); c += head_dim)
    longest = std::max(longest, rows.middleCols(c, head_dim).rowwise().norm().maxCoeff());
  return longest;
}

/// How far the exact arithmetic of shards may be from double precision over `keys`, which are
/// rounded to Scalar: of log-sum-exps absolutely, of outputs relative to the largest value.
/// A score is off by the roundoff of head_dim products, of RoPE (a few units) and of the stored
/// key, a log-sum-exp by that and its own roundoff; either being off by e moves a weight by 2 e.
/// Sums of `tokens` terms, the kernels' exponential (a few units), values, parts and output that
/// are rounded come on top.
template <class Scalar>
double exact_error(const Matrix<Scalar>& queries, const Matrix<Scalar>& keys, Index head_dim,
                   double largest_log) {
  constexpr double u = roundoff<ComputeType<Scalar>>(), stored = roundoff<Scalar>();
  const double d = static_cast<double>(head_dim), tokens = static_cast<double>(keys.rows());
  const double scores = ((d + 12) * u + stored) *
                        longest(queries.template cast<double>(), head_dim) *
                        longest(keys.template cast<double>(), head_dim) / std::sqrt(d);
  return 2 * (scores + largest_log * roundoff<float>()) + (tokens + 16) * u + 3 * stored;
}

/// The ends of 1 to 5 shards, of which some may be empty.
std::vector<Index> random_ends(Index tokens, std::mt19937& random) {
  std::vector<Index> ends(random() % 5);
  for (Index& end : ends) end = static_cast<Index>(random() % static_cast<unsigned>(tokens + 1));
  if (ends.size() > 1 && random() % 2 == 0) ends[1] = ends[0];
  std::sort(ends.begin(), ends.end());
  ends.push_back(tokens);
  return ends;
}

std::string describe(const std::vector<Index>& ends) {
  std::string text = "shards end at";
  for (const Index end : ends) text += " " + std::to_string(end);
  return text;
}

template <class Scalar>
class ShardsOf : public ::testing::Test {
 protected:
  using One = Attended<Scalar>;

  /// Over what the caches say that they hold.
  static void expect_dense(const Shards<Scalar>& shards, const Sequence<Scalar>& sequence,
                           Index rows, Arithmetic arithmetic) {
    SCOPED_TRACE(std::to_string(rows) + " rows");
    const ModelShape& shape = sequence.shape;
    const Matrix<Scalar> queries = sequence.queries.bottomRows(rows);
    const Matrix<Scalar> keys = shards.keys(), values = shards.values();
    const auto dense = [&](const Matrix<Scalar>& k, const Matrix<Scalar>& v, Matrix<double>* log) {
      return dense_attention<double>(shape, rotated(shape, queries, sequence.tokens() - rows),
                                     rotated(shape, k), v.template cast<double>(), sequence.valid,
                                     log);
    };
    Matrix<double> expected_log;
    const Matrix<double> expected = dense(keys, values, &expected_log);
    const One actual = shards.attend(rows);
    if (arithmetic == Arithmetic::fast) {
      // May lose a tenth of what the codes lose, as in one cache.
      const Matrix<double> original =
          dense_attention<Scalar>(shape, queries, sequence.keys, sequence.values, sequence.valid);
      EXPECT_LE((actual.out.template cast<double>() - expected).norm(),
                0.1 * (expected - original).norm());
      expect_near(actual.log_sum_exp, expected_log, 2e-2);
    } else {
      const double largest_log =
          expected_log.array().isFinite().select(expected_log.array().abs(), 0).maxCoeff();
      const double error = exact_error(queries, keys, shape.head_dim, largest_log);
      expect_near(actual.out, expected,
                  error * values.template cast<double>().cwiseAbs().maxCoeff());
      expect_near(actual.log_sum_exp, expected_log, error);
    }
  }
};

using ShardScalars = ::testing::Types<float, double, Eigen::half>;
TYPED_TEST_SUITE(ShardsOf, ShardScalars, );

TYPED_TEST(ShardsOf, AttendAsOneSequence) {
  std::mt19937 random(1);
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::dequantized})
    for (unsigned seed = 1; seed <= 12; ++seed) {
      Config config;
      config.quant_group_size = 4;
      config.arithmetic = arithmetic;
      const Sequence<TypeParam> sequence(300, seed % 2 == 0, seed % 3 == 0, seed);
      const std::vector<Index> ends = random_ends(sequence.tokens(), random);
      SCOPED_TRACE(describe(ends) + ", seed " + std::to_string(seed));
      const Shards<TypeParam> shards(config, sequence, ends);
      for (const Index rows : {1, 3, 20, 90})
        this->expect_dense(shards, sequence, rows, arithmetic);
    }
}

/// Blocks that do not cross shards, one metric: the shards hold the codes of the one cache.
TYPED_TEST(ShardsOf, ThatAreSealedEqualOneCache) {
  const Sequence<TypeParam> sequence(320, false, false, 5);
  QueryMoments moments(sequence.shape);
  moments.add<TypeParam>(0, sequence.queries);
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::dequantized}) {
    Config config;
    config.quant_group_size = 4;
    config.arithmetic = arithmetic;
    Shards<TypeParam> one(config, sequence, {320}, &moments);
    one.seal(config.residual_length);
    for (const std::vector<Index>& ends :
         {std::vector<Index>{160, 320}, {32, 96, 96, 192, 320}, {0, 320, 320}}) {
      SCOPED_TRACE(describe(ends));
      Shards<TypeParam> shards(config, sequence, ends, &moments);
      shards.seal(config.residual_length);
      EXPECT_TRUE(same_bytes(shards.keys(), one.keys()));
      EXPECT_TRUE(same_bytes(shards.values(), one.values()));
      for (const Index rows : {1, 5}) {
        const auto expected = one.attend(rows), actual = shards.attend(rows);
        // Codes are the same, so the roundoff of either side is what may be between them. Few rows
        // are folded into integers: one near the midpoint of two may go to another. A step is 1/127
        // of the largest weight, which is below a tenth here.
        const bool integers = arithmetic == Arithmetic::fast && !std::is_same_v<TypeParam, double>;
        const double error =
            2 * exact_error<TypeParam>(sequence.queries.bottomRows(rows), one.keys(), 32,
                                       expected.log_sum_exp.maxCoeff()) +
            (integers ? 1e-3 : 0);
        expect_near(actual.out, expected.out.template cast<double>(),
                    error * one.values().template cast<double>().cwiseAbs().maxCoeff());
        expect_near(actual.log_sum_exp, expected.log_sum_exp.template cast<double>(), error);
      }
    }
  }
}

}  // namespace
}  // namespace squat::testing
