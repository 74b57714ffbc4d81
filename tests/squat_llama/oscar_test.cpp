// OSCAR's codes, bases and windows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "attention_states.hpp"
#include "cell_rounding.hpp"
#include "squat_session.hpp"
#include "test_model.hpp"

namespace squat_llama {
namespace {

using squat::Index;

TEST(OscarCodec, ClipsAndRoundsToFourLevels) {
  const std::vector<float> x = {-3, -1, 0, 1, 2, 3, 8, 0.5f};
  const OscarCodec codec(8, 0.75);  // two of eight channels are clipped to the larger 3
  ASSERT_EQ(codec.row_bytes(), 2 + 4);
  std::vector<std::uint8_t> code(6);
  std::vector<float> decoded(8);
  codec.encode(x.data(), code.data());
  codec.decode(code.data(), decoded.data());
  EXPECT_EQ(decoded, (std::vector<float>{-3, -1, 1, 1, 3, 3, 3, 1}));
  const OscarCodec unclipped(8, 1);
  unclipped.encode(x.data(), code.data());
  unclipped.decode(code.data(), decoded.data());
  EXPECT_NEAR(decoded[0], -3, 1e-2);
  EXPECT_NEAR(decoded[6], 8, 1e-2);
}

TEST(OscarCodec, GroupsOf128HaveAScale) {
  const OscarCodec codec(256, 1);
  ASSERT_EQ(codec.row_bytes(), 64 + 2 * 4);
  std::vector<float> x(256, 0.0f), decoded(256, 1.0f);
  x[3] = 300;
  for (std::size_t i = 128; i < 256; ++i) x[i] = static_cast<float>(i % 4);
  std::vector<std::uint8_t> code(72);
  codec.encode(x.data(), code.data());
  codec.decode(code.data(), decoded.data());
  EXPECT_EQ(decoded, x);
  const std::vector<float> zeros(256, 0.0f);
  codec.encode(zeros.data(), code.data());
  codec.decode(code.data(), decoded.data());
  EXPECT_EQ(decoded, zeros);
}

TEST(OscarCodec, NeedsAPowerOfTwo) {
  try {
    OscarCodec(96, 1);
    ADD_FAILURE() << "96 channels were taken";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("power of two channels, at least 8, not 96"),
              std::string::npos)
        << error.what();
  }
}

squat::Matrix<double> random_moment(Index dim) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  squat::Matrix<double> x =
      squat::Matrix<double>::NullaryExpr(3 * dim, dim, [&] { return normal(random); });
  for (Index i = 0; i < dim; ++i) x.col(i) *= std::exp(normal(random));
  return x.transpose() * x;
}

TEST(OscarRotation, MakesAllChannelsCountTheSame) {
  const squat::Matrix<double> moment = random_moment(32);
  const squat::Matrix<double> rotation = oscar_rotation(moment).cast<double>();
  EXPECT_LT((rotation.transpose() * rotation - Eigen::MatrixXd::Identity(32, 32)).norm(), 1e-5);
  const Eigen::VectorXd squares = (rotation.transpose() * moment * rotation).diagonal();
  const double mean = moment.trace() / 32;
  EXPECT_LT((squares.array() - mean).abs().maxCoeff(), 1e-5 * mean);
  EXPECT_GT((moment.diagonal().array() - mean).abs().maxCoeff(), mean);
}

TEST(OscarRotation, PermutesByReversedBits) {
  // Eigenvectors are unit vectors, but for their signs, which the products do not have.
  const Eigen::VectorXd squares = Eigen::VectorXd::LinSpaced(8, 1, 8);
  const squat::Matrix<float> rotation = oscar_rotation(squares.asDiagonal().toDenseMatrix());
  const std::vector<Index> reversed = {0, 4, 2, 6, 1, 5, 3, 7};
  for (Index i = 0; i < 8; ++i)
    for (Index row = 0; row < 8; ++row) {
      int common = 0;  // of row and column 7 - i of the Hadamard matrix
      for (Index bit = 1; bit < 8; bit *= 2) common += (row & (7 - i) & bit) != 0;
      EXPECT_NEAR(rotation(row, reversed[static_cast<std::size_t>(i)]) * rotation(row, 7),
                  common % 2 == 0 ? 0.125 : -0.125, 1e-6);
    }
}

/// Whether `rotation` is U H P for the eigenvectors U of `moment`: U^T moment U is diagonal.
void expect_eigenvectors(const squat::Matrix<float>& rotation, const Eigen::MatrixXd& moment) {
  const Index dim = rotation.rows();
  const squat::Matrix<float> plain =
      oscar_rotation(Eigen::VectorXd::LinSpaced(dim, 1, static_cast<double>(dim))
                         .asDiagonal()
                         .toDenseMatrix());  // H P, with signs of rows
  const Eigen::MatrixXd u = (rotation * plain.transpose()).cast<double>();
  const Eigen::MatrixXd turned = u.transpose() * moment * u;
  const Eigen::MatrixXd rest = turned - Eigen::MatrixXd(turned.diagonal().asDiagonal());
  EXPECT_LT(rest.norm(), 1e-4 * turned.norm());
}

TEST(OscarBases, AreOfQueriesAndOfValuesWeightedByScores) {
  const Model model = test::tiny();
  const squat::ModelShape shape = attention_shape(model);
  const std::vector<Token> tokens = squat::testing::some_tokens(90);
  const auto bases = fit_oscar_bases(model, shape, {tokens});
  ASSERT_EQ(bases.size(), static_cast<std::size_t>(shape.layers));
  for_each_layer(model, tokens, [&](int layer, const LayerStates& states) {
    const Index dim = shape.head_dim, group = shape.heads_per_kv();
    const OscarBases& own = bases[static_cast<std::size_t>(layer)];
    ASSERT_EQ(own.keys.size(), static_cast<std::size_t>(shape.kv_heads));
    for (Index head = 0; head < shape.kv_heads; ++head) {
      Eigen::MatrixXd of_queries = Eigen::MatrixXd::Zero(dim, dim);
      Eigen::MatrixXd of_values = Eigen::MatrixXd::Zero(dim, dim);
      for (Index token = 0; token < 90; ++token) {
        const Eigen::RowVectorXd k = states.keys.row(token).segment(head * dim, dim).cast<double>();
        const Eigen::RowVectorXd v =
            states.values.row(token).segment(head * dim, dim).cast<double>();
        for (Index from = 0; from < 90; ++from)
          for (Index h = head * group; h < (head + 1) * group; ++h) {
            const Eigen::RowVectorXd q =
                states.queries.row(from).segment(h * dim, dim).cast<double>();
            if (token == 0) of_queries += q.transpose() * q;
            of_values += std::pow(q.dot(k), 2) * v.transpose() * v;
          }
      }
      expect_eigenvectors(own.keys[static_cast<std::size_t>(head)], of_queries);
      expect_eigenvectors(own.values[static_cast<std::size_t>(head)], of_values);
    }
  });
}

TEST(OscarRounding, LeavesTheFirstAndTheNewestTokens) {
  constexpr Index dim = 8, cells = 400, texts = 2;
  const squat::ModelShape shape(1, 1, 1, dim);
  const squat::Matrix<float> rotation = oscar_rotation(random_moment(dim));
  OscarRounding rounding(shape, {{{rotation}, {rotation}}}, texts);
  const squat::Matrix<float> before = squat::Matrix<float>::Random(texts * cells, dim);
  squat::Matrix<float> now = before;
  std::vector<std::int64_t> indices;
  ggml_tensor all{}, written{}, at{};
  std::strcpy(all.name, "cache_v_l0");
  written.view_src = &all;
  written.data = now.data();
  written.ne[0] = dim;
  written.ne[1] = texts * cells;
  written.nb[1] = dim * sizeof(float);
  written.src[1] = &at;
  at.ne[1] = at.ne[2] = at.ne[3] = 1;
  const auto write = [&](std::vector<std::int64_t> to) {
    indices = std::move(to);
    at.ne[0] = static_cast<std::int64_t>(indices.size());
    at.data = indices.data();
    rounding.round(written);
  };
  const auto expect_rounded = [&](Index end_of_first, Index end_of_second) {
    for (Index cell = 0; cell < texts * cells; ++cell) {
      const Index token = cell % cells, end = cell < cells ? end_of_first : end_of_second;
      EXPECT_EQ(now.row(cell) != before.row(cell), token >= 64 && token < end) << cell;
    }
  };
  write({cells + 328, cells + 329, cells + 330});  // of the second text
  expect_rounded(64, 328 + 1 - 256);
  write({399, cells + 331});
  expect_rounded(399 + 1 - 256, 331 + 1 - 256);
  const squat::Matrix<float> once = now;
  write({399});
  EXPECT_EQ(now, once);  // no token is rounded twice

  // Of 400 and 332 tokens, 80 and 12 values are rounded.
  const double numbers = 2 * dim * (400 + 332);
  const CacheBytes bytes = rounding.bytes(numbers, 2 * dim * texts * cells);
  EXPECT_EQ(bytes.elements, dim * (80 + 12));
  EXPECT_EQ(bytes.quantized, (dim / 4 + 4) * (80 + 12));
  EXPECT_EQ(bytes.total, 2 * (numbers - bytes.elements) + bytes.quantized +
                             (2 * dim * texts * cells - numbers) * (dim / 4 + 4) / dim);
}

}  // namespace
}  // namespace squat_llama
