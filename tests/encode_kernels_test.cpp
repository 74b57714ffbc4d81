// The encoding kernels of every instruction set against the portable ones.
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <squat/detail/encoding/simd/available_encoders.hpp>
#include <squat/detail/records/affine_table.hpp>
#include <utility>
#include <vector>

#include "available_sets.hpp"
#include "random_matrix.hpp"

namespace squat::detail::simd {
namespace {

using testing::correlated_matrix;
using testing::random_matrix;
using Bytes = std::vector<std::uint8_t>;

class Encode : public ::testing::TestWithParam<testing::Set> {
 protected:
  template <int Bits>
  EncodeKernels kernels() const {
    return encode_kernels_for<Bits>(*GetParam());
  }
  const EncodeKernels portable = PortableEncode::kernels<2>();
};

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, Encode,
                         ::testing::ValuesIn(testing::available_sets()), testing::name_of);

/// Some ordinary numbers, some constant, some far from what is expected.
Matrix<float> channels(Index tokens, unsigned seed) {
  Matrix<float> x = correlated_matrix<float>(tokens, 8, seed).transpose();
  x.row(2).setConstant(0.3f);
  x.row(4).array() += 500;
  x.row(6) *= 1e-4f;
  return x;
}

TEST_P(Encode, OctetsAreThoseOfThePortableVersion) {
  const Matrix<float> inner = random_matrix<float>(8, 8, 3) * 0.2f;
  const float expected[8] = {0, 1, 0, -1, 2, 0, 0, 7};
  for (int bits = 1; bits <= 8; ++bits)
    for (const int scale_bits : {8, 16, 32})
      for (const ScaleFit fit : {ScaleFit::min_max, ScaleFit::unbiased})
        for (const Index tokens : {32, 64, 128})
          for (const auto& [blocks, step] :
               {std::pair<Index, Index>{1, 1}, {3, 1}, {1, 8}, {2, 4}, {3, 2}, {4, 2}, {4, 4}}) {
            SCOPED_TRACE(::testing::Message()
                         << bits << " bits, scales of " << scale_bits << ", " << blocks
                         << " blocks of " << tokens << " tokens, fit " << static_cast<int>(fit)
                         << ", step " << step);
            Matrix<float> x = channels(blocks * tokens, static_cast<unsigned>(bits)), y = x;
            Affine<float> affine[4 * 8], want[4 * 8];
            Bytes codes(static_cast<std::size_t>(x.size())), want_codes = codes;
            const GroupFormat format{bits, scale_bits, fit};
            kernels<2>().encode_eight_channels(x.data(), blocks, tokens, inner.data(), step, format,
                                               expected, affine, codes.data());
            portable.encode_eight_channels(y.data(), blocks, tokens, inner.data(), step, format,
                                           expected, want, want_codes.data());
            EXPECT_EQ(codes, want_codes);
            EXPECT_EQ(x, y);
            for (int i = 0; i < 8 * blocks; ++i) {
              EXPECT_EQ(affine[i].scale, want[i].scale) << i;
              EXPECT_EQ(affine[i].zero, want[i].zero) << i;
            }
          }
}

TEST_P(Encode, AffinesOf8BitsAreStoredAsTheyAreReadBack) {
  const float expected[8] = {0, 1, -1, 100, -3e4f, 0.01f, 0, 7}, none[8] = {};
  const float scales[8] = {1e-7f, 1e-4f, 0.3f, 0, 17, 6e4f, 0x1p-14f, 2};
  for (int bits = 1; bits <= 8; ++bits)
    for (const float* around : {expected, none})
      for (int turn = 0; turn < 8; ++turn) {
        const float max_code = static_cast<float>((1 << bits) - 1);
        Affine<float> affine[8];
        for (int k = 0; k < 8; ++k) {
          const float scale = scales[(k + turn) % 8];
          const float midpoint = around[k] + static_cast<float>(k - 3) * scale * max_code;
          affine[k] = stored_affine8(scale, midpoint, max_code, around[k]);
        }
        const AffineTable table(8, 8, true);
        std::array<std::byte, 16> bytes;
        kernels<2>().store8(affine, max_code, around == none ? nullptr : around,
                            table.scale(bytes.data(), 0), table.zero(bytes.data(), 0));
        for (int k = 0; k < 8; ++k) {
          const Affine<float> read = table.get(bytes.data(), k, max_code, around[k]);
          EXPECT_EQ(read.scale, affine[k].scale) << bits << " bits, channel " << k;
          EXPECT_NEAR(read.zero, affine[k].zero, 1e-6f * std::abs(affine[k].zero))
              << bits << " bits, channel " << k;
        }
      }
}

TEST_P(Encode, GroupsAreThoseOfThePortableVersion) {
  for (const Index n : {8, 24, 64, 512})
    for (int bits = 1; bits <= 8; ++bits) {
      const Matrix<float> x = random_matrix<float>(1, n, static_cast<unsigned>(n + bits));
      Bytes codes(static_cast<std::size_t>(n)), want = codes;
      for (const int scale_bits : {8, 16, 32})
        for (const ScaleFit fit : {ScaleFit::min_max, ScaleFit::unbiased, ScaleFit::symmetric})
          for (const Index length : {32, 64, 512}) {
            const GroupFormat format{bits, scale_bits, fit};
            CodeGrid<float> got[16] = {}, wanted[16] = {};
            kernels<2>().groups(x.data(), n, length, format, got, codes.data());
            portable.groups(x.data(), n, length, format, wanted, want.data());
            EXPECT_EQ(codes, want);
            for (int group = 0; group < 16; ++group) {
              EXPECT_EQ(got[group].scale, wanted[group].scale);
              EXPECT_EQ(got[group].zero, wanted[group].zero);
              EXPECT_EQ(got[group].shift, wanted[group].shift);
              EXPECT_EQ(got[group].inverse, wanted[group].inverse);
              EXPECT_EQ(got[group].origin, wanted[group].origin);
            }
          }
    }
}

TEST_P(Encode, AddsProducts) {
  for (const Index rows : {4, 8, 20})
    for (const Index columns : {8, 16, 24, 64, 88, 128, 200})
      for (const Index n : {1, 7, 64}) {
        // Parts of larger matrices, whose other elements stay.
        const Matrix<float> a = random_matrix<float>(rows, n + 3, static_cast<unsigned>(rows));
        const Matrix<float> b = random_matrix<float>(n, columns + 5, static_cast<unsigned>(n));
        const Matrix<float> before = random_matrix<float>(rows, columns + 2, 9);
        Matrix<float> out = before;
        GetParam()->matrix.add_products(a.data(), a.cols(), b.data(), b.cols(), out.data(),
                                        out.cols(), rows, n, columns);
        Matrix<double> want = before.cast<double>();
        want.leftCols(columns) += a.leftCols(n).cast<double>() * b.leftCols(columns).cast<double>();
        EXPECT_LT((out.cast<double>() - want).cwiseAbs().maxCoeff(), 1e-5 * std::sqrt(n))
            << rows << " x " << n << " x " << columns;
        EXPECT_EQ(out.rightCols(2), before.rightCols(2));
        Matrix<float> same = before;
        PortableMatrix::add_products(a.data(), a.cols(), b.data(), b.cols(), same.data(),
                                     same.cols(), rows, n, columns);
        EXPECT_EQ(out, same);
      }
}

/// What is read back, and codes, whatever they were made of.
void expect_in_range(const Affine<float>& affine, const Bytes& codes, int bits, int scale_bits) {
  const float most = scale_bits == 8 ? 61440.0f : largest_stored(scale_bits);
  EXPECT_GE(affine.scale, 0);
  EXPECT_LE(affine.scale, most);
  EXPECT_TRUE(std::isfinite(affine.zero)) << affine.zero;
  if (scale_bits != 8) {
    EXPECT_LE(std::abs(affine.zero), most);
  }
  EXPECT_LT(*std::max_element(codes.begin(), codes.end()), 1 << bits);
}

TEST_P(Encode, WhateverComesInIsReadBackFinite) {
  const float infinity = std::numeric_limits<float>::infinity(), none = std::nanf("");
  const float odd[] = {none,   infinity, -infinity, 3e38f,  -3e38f, 65504,
                       -65504, 1e18f,    -1e18f,    1e-45f, 1.5e6f};
  const Index n = 32;
  Matrix<float> inner = random_matrix<float>(8, 8, 3);
  const float expected[8] = {0, 65504, 0, -65504, 2, 0, 0, 7};
  for (std::size_t kind = 0; kind < 3 * std::size(odd); ++kind) {
    const float x0 = odd[kind / 3], x1 = kind % 3 == 0 ? 1.0f : kind % 3 == 1 ? -x0 : x0;
    Matrix<float> x = random_matrix<float>(8, n, 1);
    x.col(0).setConstant(x0);
    if (kind % 3 > 0) x.rightCols(n - 1).setConstant(x1);
    if (kind % 2 > 0) inner(7, 0) = x0;
    for (int bits = 1; bits <= 8; ++bits)
      for (const int scale_bits : {8, 16, 32}) {
        SCOPED_TRACE(::testing::Message() << bits << " bits, scales of " << scale_bits << ", of "
                                          << x0 << " and " << x1);
        Bytes codes(static_cast<std::size_t>(n)), all(static_cast<std::size_t>(8 * n));
        for (const ScaleFit fit : {ScaleFit::min_max, ScaleFit::unbiased, ScaleFit::symmetric}) {
          const GroupFormat format{bits, scale_bits, fit};
          Affine<float> affine[8];
          Matrix<float> keys = x;
          kernels<2>().encode_eight_channels(keys.data(), 1, n, inner.data(), 1, format, expected,
                                             affine, all.data());
          for (const Affine<float>& one : affine) expect_in_range(one, all, bits, scale_bits);
          CodeGrid<float> grid;
          kernels<2>().groups(x.data(), n, n, format, &grid, codes.data());
          expect_in_range(grid, codes, bits, scale_bits);
        }
        Config config;
        config.scale_bits = scale_bits;
        for (const Backend backend : {Backend::quanto, Backend::hqq, Backend::unbiased}) {
          config.backend = backend;
          const Matrix<double> wide = x.cast<double>();
          const Affine<double> affine =
              encode_group(wide.data(), n, {bits, config.scale_bits, LayerSettings(config).key_fit},
                           expected[1] + 0.0, codes.data());
          expect_in_range({static_cast<float>(affine.scale), static_cast<float>(affine.zero)},
                          codes, bits, scale_bits);
        }
        if (scale_bits == 8) continue;
        std::array<std::byte, 32> scales, zeros;
        alignas(32) std::array<std::uint8_t, 128> tiles[2];
        Matrix<float> tokens = x.transpose();
        kernels<2>().encode_min_max(tokens.data(), 8, n, scale_bits, scales.data(), zeros.data(),
                                    tiles[0].data(), 128);
        const AffineTable table(8, scale_bits, false);
        for (Index i = 0; i < 8; ++i)
          expect_in_range({table.get<float>(scales.data(), i, 0, 0).scale,
                           table.get<float>(zeros.data(), i, 0, 0).scale},
                          {0}, bits, scale_bits);
      }
  }
}

template <int Bits>
void expect_tiles(const EncodeKernels& kernels) {
  using Tile = CodeTile<Bits>;
  const Index tokens = 64, stride = 3 * Index{sizeof(Tile)};
  std::mt19937 random(Bits);
  Bytes codes(8 * 64);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() >> (32 - Bits));
  Bytes tiles(static_cast<std::size_t>(4 * stride), 0xa5);
  // Bits from one on, with others around them.
  Bytes shifted = codes;
  if constexpr (Bits < 8)
    for (std::uint8_t& code : shifted)
      code = static_cast<std::uint8_t>(code << 1 | (random() & 1) | (random() & 255) << (Bits + 1));
  kernels.pack(shifted.data(), Bits < 8 ? 1 : 0, tokens, tiles.data(), stride);
  const auto tile = [&](Index i) { return reinterpret_cast<Tile*>(tiles.data() + i * stride); };
  for (Index depth = 0; depth < 8; ++depth)
    for (Index t = 0; t < tokens; ++t)
      ASSERT_EQ(tile(t / 16)->get(t % 16, depth), codes[static_cast<std::size_t>(64 * depth + t)]);
  // 40 lanes at one depth; all else stays.
  for (Index depth = 0; depth < 8; ++depth) {
    const Bytes before = tiles;
    kernels.store_codes_at_depth(codes.data() + 100, 40, tiles.data(), stride, depth);
    for (Index lane = 0; lane < 48; ++lane)
      for (Index other = 0; other < 8; ++other) {
        const auto* old = reinterpret_cast<const Tile*>(before.data() + lane / 16 * stride);
        const int want = other == depth && lane < 40 ? codes[static_cast<std::size_t>(100 + lane)]
                                                     : old->get(lane % 16, other);
        ASSERT_EQ(tile(lane / 16)->get(lane % 16, other), want) << lane << " " << other;
      }
  }
}

TEST_P(Encode, CodesGoToTheirTiles) {
  expect_tiles<1>(kernels<1>());
  expect_tiles<2>(kernels<2>());
  expect_tiles<3>(kernels<3>());
  expect_tiles<4>(kernels<4>());
  expect_tiles<8>(kernels<8>());
}

TEST_P(Encode, Transposes) {
  const Matrix<float> wide = random_matrix<float>(40, 48, 8);
  for (const Index columns : {8, 24, 40})
    for (const Index rows : {8, 32, 40}) {
      Matrix<float> out = Matrix<float>::Zero(columns, rows);
      std::vector<float*> row(static_cast<std::size_t>(columns));
      for (Index c = 0; c < columns; ++c)
        row[static_cast<std::size_t>(c)] = out.row((7 * c + 1) % columns).data();
      GetParam()->matrix.transpose(wide.data() + 8, wide.cols(), rows, columns, row.data());
      for (Index c = 0; c < columns; ++c)
        EXPECT_EQ(out.row((7 * c + 1) % columns), wide.col(8 + c).head(rows).transpose());
    }
}

TEST_P(Encode, HadamardMatrixIsOrthonormalAndItsOwnInverse) {
  for (const Index n : {8, 16, 24, 40, 64, 80, 96, 128, 512}) {
    const Matrix<float> x = random_matrix<float>(1, n, 9);
    Matrix<double> exact = x.cast<double>();
    hadamard(exact.data(), n);
    EXPECT_NEAR(exact.norm(), x.cast<double>().norm(), 1e-9);
    Matrix<float> y = x;
    GetParam()->matrix.hadamard(y.data(), n);
    EXPECT_LE((y.cast<double>() - exact).cwiseAbs().maxCoeff(), 2e-6) << n;
    Matrix<float> same = x;
    hadamard(same.data(), n);
    EXPECT_EQ(y, same) << n;
    GetParam()->matrix.hadamard(y.data(), n);
    EXPECT_LE((y - x).cwiseAbs().maxCoeff(), 4e-6f) << n;
  }
}

}  // namespace
}  // namespace squat::detail::simd
