// Rotations of heads: what they do to what is large, and those of older files.
#include <gtest/gtest.h>

#include <fstream>

#include "dense_attention.hpp"
#include "round_trip.hpp"
#include "saved_cache.hpp"
#include "small_cache.hpp"

namespace squat::testing {
namespace {

TEST(Rotation, IsOrthonormalAndUndone) {
  for (const Rotation rotation : {Rotation::plain, Rotation::signs})
    for (const Index n : {8, 16, 24, 40, 64, 80, 96, 104, 112, 128, 568, 576}) {
      const Matrix<double> x = random_matrix(1, n, 9);
      Matrix<double> y = x;
      rotate(y.data(), n, rotation);
      EXPECT_NEAR(y.norm(), x.norm(), 1e-9);
      EXPECT_GT((y - x).norm(), 0.5 * x.norm());
      Matrix<float> single = y.cast<float>();
      rotate_back(y.data(), n, rotation);
      EXPECT_LE((y - x).cwiseAbs().maxCoeff(), 1e-12) << n;
      simd::head_rotation<float>(rotation, n).undo(single.data());
      EXPECT_LE((single.cast<double>() - x).cwiseAbs().maxCoeff(), 1e-5) << n;
      simd::head_rotation<float>(rotation, n).apply(single.data());
      rotate(y.data(), n, rotation);
      EXPECT_LE((single.cast<double>() - y).cwiseAbs().maxCoeff(), 1e-5) << n;
    }
}

// Files depend on them.
TEST(Rotation, SignsAreTheStatedOnes) {
  std::string first;
  for (std::size_t i = 0; i < 32; ++i) first += rotation_signs<float>()[i] < 0 ? '-' : '+';
  EXPECT_EQ(first, "+++----+--+---+--+------+---+-++");
}

/// The first n channels of the rows of a Hadamard matrix: what is alike in all channels,
/// alternates, and so on, a direction a row. Where n is a power of two hadamard() makes spikes of
/// them.
Matrix<float> spikes(Index n) {
  Index size = 8;
  while (size < n) size *= 2;
  Matrix<float> rows = Matrix<float>::Identity(size, size);
  for (Index i = 0; i < size; ++i) hadamard(rows.row(i).data(), size);
  return rows.leftCols(n);
}

/// Of each row, relative.
Matrix<float> errors(const Matrix<float>& rows, const Matrix<float>& decoded) {
  return (decoded - rows).rowwise().norm().cwiseQuotient(rows.rowwise().norm());
}

Matrix<float> errors_of_values(const Matrix<float>& rows, int bits) {
  const ValueQuantizer<float> quantizer(rows.cols(), bits, Config::recommended(2.5));
  Record record(quantizer.block().bytes());
  Matrix<float> decoded(rows.rows(), rows.cols());
  for (Index row = 0; row < rows.rows(); ++row) {
    quantizer.quantize(rows.row(row).data(), record.data(), 0);
    quantizer.block().dequantize(record.data(), 1, decoded.row(row).data());
  }
  return errors(rows, decoded);
}

Config rotated_keys() {
  Config config = Config::recommended(3);
  config.adaptive_bits = false;
  config.key_bits = 4;
  config.key_scales = KeyScales::per_token;
  config.rotate_keys = true;
  config.residual_length = 0;
  return config;
}

Matrix<float> errors_of_keys(const Matrix<float>& rows, int bits) {
  const KeyQuantizer<float> quantizer(rows.cols(), bits, rotated_keys());
  Record record(quantizer.block().bytes());
  Matrix<float> decoded(rows.rows(), rows.cols());
  for (Index row = 0; row < rows.rows(); ++row) {
    quantizer.quantize(rows.row(row), ErrorFeedback<float>(rows.cols()), record.data());
    quantizer.block().dequantize(record.data(), 1, decoded.row(row).data());
  }
  return errors(rows, decoded);
}

// A constant and other simple directions are nearly as good as any. Where a rotation has two parts
// they are a little worse.
TEST(Rotation, HasNoSimpleDirectionThatBecomesASpike) {
  for (const Index n : {24, 40, 64, 80, 96, 104, 128})
    for (const int bits : {1, 2, 4, 8}) {
      const float factor = n % 32 == 0 ? 2.0f : 2.2f;
      const Matrix<float> noise = random_matrix<float>(100, n, 1);
      EXPECT_LE(errors_of_values(spikes(n), bits).maxCoeff(),
                factor * errors_of_values(noise, bits).mean())
          << n << " values, bits " << bits;
      EXPECT_LE(errors_of_keys(spikes(n), bits).maxCoeff(),
                factor * errors_of_keys(noise, bits).mean())
          << n << " keys, bits " << bits;
    }
}

// ---- Files of version 3, whose rotations have no signs ----

std::string file_of_version_3(bool per_token) {
  std::ifstream in(std::string(SQUAT_TEST_DATA) +
                       (per_token ? "/rotated_tokens3.squat" : "/rotated_channels3.squat"),
                   std::ios::binary);
  EXPECT_TRUE(in);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

Config config_of_file(bool per_token) {
  return per_token ? rotated_keys() : Config::recommended(3);
}

/// How far what a cache holds is from what went in, relative.
double error_of(const Cache& cache, const Rows& keys, const Rows& values) {
  return std::hypot((cache.keys(0) - keys).norm() / keys.norm(),
                    (cache.values(0) - values).norm() / values.norm());
}

// Calibrated, a cache has a metric of its own: what comes after the file is rotated anew.
TEST(Rotation, CachesOfVersion3GoOn) {
  const Tokens first(150, 1), more(140, 7);
  Rows keys(290, key_width), values(290, key_width);
  keys << first.keys, more.keys;
  values << first.values, more.values;
  for (const bool per_token : {false, true})
    for (const bool calibrated : {false, true}) {
      SCOPED_TRACE(::testing::Message() << per_token << calibrated);
      const Config config = config_of_file(per_token);
      Cache cache(shape, config), fresh(shape, config);
      if (calibrated) {
        QueryMoments moments(shape);
        moments.add<float>(0, first.queries);
        for (Cache* one : {&cache, &fresh}) one->calibrate(moments);
      }
      update(fresh, first);
      fresh.flush(0);
      load(cache, file_of_version_3(per_token), 0);
      EXPECT_LE(error_of(cache, first.keys, first.values),
                1.1 * error_of(fresh, first.keys, first.values));
      for (Cache* one : {&cache, &fresh}) {
        for (Index t = 0; t < 140; t += 35) {
          update(*one, more, t, 35);
          one->flush(0);
        }
      }
      EXPECT_LE(error_of(cache, keys, values), 1.1 * error_of(fresh, keys, values));
      for (const Index rows : {1, 30}) {
        const Rows queries = more.queries.bottomRows(rows);
        const Matrix<double> expected =
            dense_attention<float>(shape, queries, cache.keys(0), cache.values(0));
        EXPECT_LE((attend(cache, queries).cast<double>() - expected).norm(),
                  0.02 * expected.norm());
      }
      Cache again(shape, config);
      load(again, saved(cache, 0), 0);
      EXPECT_TRUE(same(again.keys(0), cache.keys(0)));
      EXPECT_TRUE(same(again.values(0), cache.values(0)));
      const Rows queries = more.queries.bottomRows(2);
      EXPECT_TRUE(same(attend(again, queries), attend(cache, queries)));
    }
}

}  // namespace
}  // namespace squat::testing
