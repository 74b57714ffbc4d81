// The kernels of every instruction set that this machine has, against double precision.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "available_sets.hpp"
#include "random_matrix.hpp"

namespace squat::detail::simd {
namespace {

using testing::random_matrix;
using testing::Set;

class Simd : public ::testing::TestWithParam<Set> {
 protected:
  const VectorKernels& kernels = GetParam()->vector;
};

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, Simd, ::testing::ValuesIn(testing::available_sets()),
                         testing::name_of);

TEST_P(Simd, WidenIsExactForEveryHalf) {
  std::vector<std::uint16_t> finite;
  for (unsigned bits = 0; bits < 65536; ++bits)
    if ((bits >> 10 & 31) != 31) finite.push_back(static_cast<std::uint16_t>(bits));
  const auto value = [](unsigned bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31),
              fraction = static_cast<int>(bits & 1023);
    const double size =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -size : size;
  };
  const std::size_t lengths[] = {8, 16, 24, 40, 128, 504};
  std::size_t turn = 0;
  for (std::size_t first = 0; first < finite.size();) {
    const std::size_t n = std::min(lengths[turn++ % 6], finite.size() - first);
    std::vector<std::uint16_t> table(finite.begin() + static_cast<std::ptrdiff_t>(first),
                                     finite.begin() + static_cast<std::ptrdiff_t>(first + n));
    for (std::size_t i = 0; i < n; ++i) table.push_back(finite[(first + i) * 17 % finite.size()]);
    std::vector<float> scale(n), midpoint(n);
    kernels.read_f16_table(table.data(), table.data() + n, static_cast<Index>(n), 7.5f,
                           scale.data(), midpoint.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double s = value(table[i]), zero = value(table[n + i]);
      ASSERT_EQ(scale[i], s) << "half " << table[i];
      ASSERT_NEAR(midpoint[i], zero + 7.5 * s, 1.2e-7 * (std::abs(zero) + 7.5 * std::abs(s)));
    }
    first += n;
  }
}

TEST_P(Simd, ExponentiateIsOneStepOfSoftmax) {
  const float none = -std::numeric_limits<float>::infinity();
  for (const Index rows : {1, 2, 3, 4, 5, 11})
    for (const Index n : {8, 16, 24, 32, 40, 64, 128})
      for (const float spread : {0.0f, 1.0f, 80.0f, 1e4f})
        for (const float before : {none, -3.0f, 85.0f})
          for (const Index hidden : {Index{0}, Index{1}, n / 2, n}) {
            SCOPED_TRACE(::testing::Message()
                         << rows << " rows of " << n << " scores within " << spread << " after "
                         << before << ", " << hidden << " hidden");
            Matrix<float> scores(rows, n + 3);
            scores =
                spread * random_matrix<float>(rows, n + 3, static_cast<unsigned>(n)).array().tanh();
            scores.leftCols(hidden).setConstant(none);
            const Matrix<float> given = scores;
            // One more: nobody may write it.
            std::vector<float> max(static_cast<std::size_t>(rows + 1), before), sums(max);
            kernels.exponentiate(scores.data(), scores.cols(), rows, n, max.data(), sums.data());
            EXPECT_EQ(max.back(), before);
            EXPECT_EQ(sums.back(), before);
            EXPECT_EQ(scores.rightCols(3), given.rightCols(3));
            for (Index row = 0; row < rows; ++row) {
              const float top = max[static_cast<std::size_t>(row)];
              EXPECT_EQ(top, std::max(before, given.row(row).head(n).maxCoeff()));
              double expected_sum = 0;
              for (Index i = 0; i < n; ++i) {
                if (given(row, i) == none) {
                  EXPECT_EQ(scores(row, i), 0.0f);
                  continue;
                }
                const double expected = std::exp(static_cast<double>(given(row, i) - top));
                EXPECT_NEAR(scores(row, i), expected, 4e-7 * expected + 1e-37);
                expected_sum += expected;
              }
              EXPECT_NEAR(sums[static_cast<std::size_t>(row)], expected_sum,
                          5e-6 * expected_sum + 1e-35);
            }
          }
}

template <class Code>
void expect_widened(void (*widen)(const Code*, const std::uint16_t*, Index, float*)) {
  for (const Index n : {8, 24, 32, 56, 64, 80, 128}) {
    std::mt19937 random(static_cast<unsigned>(n));
    std::vector<Code> codes(static_cast<std::size_t>(n));
    for (Code& code : codes) code = static_cast<Code>(random());
    codes[0] = std::numeric_limits<Code>::max();
    codes[1] = std::numeric_limits<Code>::min();
    // Upper halves of floats of all sizes, and no more of them than there are groups.
    std::vector<std::uint16_t> scales(static_cast<std::size_t>((n + 31) / 32));
    for (std::uint16_t& scale : scales)
      scale = static_cast<std::uint16_t>(0x80 + random() % 0x7000);
    std::vector<float> got(static_cast<std::size_t>(n + 1), 7.0f);
    widen(codes.data(), scales.data(), n, got.data());
    EXPECT_EQ(got.back(), 7.0f);
    for (Index i = 0; i < n; ++i) {
      const std::uint32_t bits = std::uint32_t{scales[static_cast<std::size_t>(i / 32)]} << 16;
      float scale;
      std::memcpy(&scale, &bits, sizeof scale);
      const auto code = static_cast<float>(codes[static_cast<std::size_t>(i)]);
      ASSERT_EQ(got[static_cast<std::size_t>(i)], code * scale) << i << " of " << n;
    }
  }
}

TEST_P(Simd, IntegersAreWidenedToTheBit) {
  expect_widened(kernels.widen8);
  expect_widened(kernels.widen16);
}

TEST_P(Simd, RowsOfFloats) {
  for (const Index n : {8, 24, 64, 80, 128, 512})
    for (const Index count : {1, 2, 3, 4, 7, 32})
      for (const Index queries : {1, 2, 3, 4, 9}) {
        const Matrix<float> rows = random_matrix<float>(count, n, 1);
        const Matrix<float> query = random_matrix<float>(queries, n, 2);
        const Matrix<float> weights = random_matrix<float>(queries, count + 3, 3);
        const Matrix<double> wide = rows.cast<double>();
        // One more in each row: nobody may write it.
        Matrix<float> scores = Matrix<float>::Constant(queries, count + 1, 7);
        kernels.dot_rows(rows.data(), count, n, query.data(), queries, scores.data(), count + 1);
        const Matrix<double> dots = query.cast<double>() * wide.transpose();
        EXPECT_LT((scores.leftCols(count).cast<double>() - dots).cwiseAbs().maxCoeff(), 5e-5);
        EXPECT_TRUE((scores.col(count).array() == 7).all());
        Matrix<float> out = Matrix<float>::Constant(queries, n + 1, 7);
        kernels.add_rows(rows.data(), count, n, weights.data(), count + 3, queries, out.data(),
                         n + 1);
        const Matrix<double> sums = (weights.leftCols(count).cast<double>() * wide).array() + 7;
        EXPECT_LT((out.leftCols(n).cast<double>() - sums).cwiseAbs().maxCoeff(), 5e-5);
        EXPECT_TRUE((out.col(n).array() == 7).all());
      }
}

/// Rows x against a block of packed codes with a scale and a midpoint a depth, `lane_rows` rows of
/// tiles in groups of `rows_per_group`, each with scales of its own.
struct Product {
  Index heads, depths, lane_rows, rows_per_group;
  Matrix<float> x, scale, midpoint;  // [heads, depths], [groups, depths]
  Matrix<double> codes;              // [16 lane_rows, depths]

  Product(Index heads, Index depths, Index lane_rows, Index rows_per_group, int bits, unsigned seed)
      : heads(heads), depths(depths), lane_rows(lane_rows), rows_per_group(rows_per_group) {
    x = random_matrix<float>(heads, depths, seed);
    scale = random_matrix<float>(groups(), depths, seed + 1).array().abs() + 0.1f;
    midpoint = random_matrix<float>(groups(), depths, seed + 2);
    codes.resize(16 * lane_rows, depths);
    std::mt19937 random(seed);
    for (Index i = 0; i < codes.size(); ++i)
      codes.data()[i] = static_cast<double>(random() >> (32 - bits));
  }

  Index groups() const { return (lane_rows + rows_per_group - 1) / rows_per_group; }

  template <int Bits>
  std::vector<CodeTile<Bits>> tiles() const {
    std::vector<CodeTile<Bits>> tiles;
    for (Index row = 0; row < lane_rows; ++row)
      for (Index tile = 0; tile < depths / 8; ++tile) {
        std::uint8_t unpacked[8][16];
        for (Index depth = 0; depth < 8; ++depth)
          for (Index lane = 0; lane < 16; ++lane)
            unpacked[depth][lane] =
                static_cast<std::uint8_t>(codes(16 * row + lane, 8 * tile + depth));
        tiles.emplace_back().pack(unpacked);
      }
    return tiles;
  }
};

template <int Bits, class Operand>
class Folding {
 public:
  static constexpr float centre = static_cast<float>((1 << Bits) - 1) / 2;

  Folding(Set set, const Product& product)
      : product_(product),
        kernels_(set->vector),
        dots_(set->dot_for(Bits)),
        operands_(static_cast<std::size_t>(product.groups() * group_stride)),
        folded_(static_cast<std::size_t>(product.groups() * max_heads), {7, 7}) {}

  bool try_fold8(float crest = 1e9f, float largest_alpha = 1e9f) {
    std::vector<std::int16_t> fixed(max_heads * max_length);
    std::vector<float> units(static_cast<std::size_t>(product_.heads));
    for (Index h = 0; h < product_.heads; ++h)
      units[static_cast<std::size_t>(h)] = kernels_.to_fixed_point(
          product_.x.row(h).data(), product_.depths, fixed.data() + h * max_length);
    highest_operand_ = 127;
    return kernels_.try_fold8(product_.x.data(), product_.x.cols(), fixed.data(), units.data(),
                              product_.heads, product_.scale.data(), product_.midpoint.data(),
                              product_.depths, centre, crest, largest_alpha, operands_.data(),
                              folded_.data());
  }

  bool try_fold8_positive(std::int32_t least = 0) {
    operand_stride_ = max_block;
    group_stride_ = max_heads * max_block;
    highest_operand_ = 255;
    return kernels_.try_fold8_positive(product_.x.data(), product_.x.cols(), product_.heads,
                                       product_.scale.data(), product_.midpoint.data(),
                                       product_.groups(), product_.depths, centre, least,
                                       operands_.data(), folded_.data());
  }

  void fold16() {
    highest_operand_ = largest_operand16(product_.depths, Bits);
    for (Index g = 0; g < product_.groups(); ++g)
      kernels_.fold16(product_.x.data(), product_.x.cols(), product_.heads,
                      product_.scale.row(g).data(), product_.midpoint.row(g).data(),
                      product_.depths, centre, highest_operand_,
                      operands_.data() + g * group_stride, folded_.data() + g * max_heads);
  }

  /// Dot and accumulate are within what rounding the operands can do, for codes around the centre.
  /// `rounding` is in units of alpha.
  void expect_products(double rounding = 0.51) {
    const std::vector<CodeTile<Bits>> tiles = product_.template tiles<Bits>();
    const Index lanes = 16 * product_.lane_rows, stride = lanes + 8;
    TileRows<Operand> rows{tiles.front().bytes,     product_.lane_rows, product_.depths / 8,
                           product_.heads,          operands_.data(),   operand_stride_,
                           product_.rows_per_group, group_stride_,      false};
    TileRows<Operand> adding = rows;
    adding.add = true;
    Matrix<float> out = Matrix<float>::Constant(product_.heads, stride, 7), sum = out;
    dots_.template with<Operand>()(rows, folded_.data(), out.data(), stride);
    dots_.template with<Operand>()(adding, folded_.data(), sum.data(), stride);
    for (Index h = 0; h < product_.heads; ++h) {
      for (Index lane = 0; lane < lanes; ++lane) {
        const Index g = lane / 16 / product_.rows_per_group;
        const Folded& folded = folded_[static_cast<std::size_t>(g * max_heads + h)];
        double exact = 0, rest = 0, size = 0;
        for (Index i = 0; i < product_.depths; ++i) {
          const double off = product_.codes(lane, i) - static_cast<double>(centre);
          const double x = product_.x(h, i), s = product_.scale(g, i), m = product_.midpoint(g, i);
          exact += x * (s * off + m);
          rest += std::abs(off);
          size +=
              std::abs(x) * (std::abs(m) + s * (std::abs(off) + 2 * static_cast<double>(centre)));
        }
        const double alpha = folded.alpha, allowed = rounding * alpha * rest + 1e-6 * size;
        ASSERT_NEAR(out(h, lane), exact, allowed) << "head " << h << ", lane " << lane;
        ASSERT_NEAR(sum(h, lane) - 7, exact - static_cast<double>(folded.offset),
                    allowed + 1e-6 * (7 + std::abs(exact)))
            << "head " << h << ", lane " << lane;
      }
      for (Index lane = lanes; lane < stride; ++lane) ASSERT_EQ(out(h, lane), 7);
    }
  }

  /// alpha is as small as the operands allow: the largest product over the largest operand.
  void expect_alpha(bool bound) {
    for (Index g = 0; g < product_.groups(); ++g)
      for (Index h = 0; h < product_.heads; ++h) {
        const auto x = product_.x.row(h).array().abs();
        const auto scale = product_.scale.row(g).array();
        const float max = bound ? x.maxCoeff() * scale.maxCoeff() : (x * scale).maxCoeff();
        EXPECT_NEAR(folded_[static_cast<std::size_t>(g * max_heads + h)].alpha,
                    max / highest_operand_, 0.01f * max / highest_operand_);
      }
  }

 private:
  static constexpr Index group_stride = max_heads * max_length;

  const Product& product_;
  const VectorKernels kernels_;
  const DotKernels dots_;
  Index operand_stride_ = max_length;
  Index group_stride_ = group_stride;
  float highest_operand_ = 0;
  std::vector<Operand> operands_;
  std::vector<Folded> folded_;
};

template <int Bits>
class SimdProducts {
 public:
  explicit SimdProducts(Set set) : set_(set) {}

  /// Keys: one group, depths are channels. The fixed point of try_fold8 rounds thrice.
  void like_keys(const Product& product) const {
    if constexpr (Bits <= 4) {
      Folding<Bits, std::int8_t> folding(set_, product);
      ASSERT_TRUE(folding.try_fold8());
      folding.expect_alpha(false);
      folding.expect_products(0.75);
    }
    with16(product);
  }

  /// Values: probabilities, several groups, depths are tokens.
  void like_values(Product product) const {
    product.x = product.x.array().abs();
    if constexpr (Bits <= 4) {
      Folding<Bits, std::uint8_t> folding(set_, product);
      ASSERT_TRUE(folding.try_fold8_positive());
      folding.expect_alpha(true);
      folding.expect_products(0.52);
    }
    with16(product);
  }

  void with16(const Product& product) const {
    Folding<Bits, std::int16_t> folding(set_, product);
    folding.fold16();
    folding.expect_alpha(false);
    folding.expect_products();
  }

 private:
  Set set_;
};

template <class Check>
void for_each_width(Set set, const Check& check) {
  const auto with = [&](auto products, int bits) {
    SCOPED_TRACE(std::to_string(bits) + " bits");
    check(products, bits);
  };
  with(SimdProducts<1>(set), 1);
  with(SimdProducts<2>(set), 2);
  with(SimdProducts<3>(set), 3);
  with(SimdProducts<4>(set), 4);
  with(SimdProducts<8>(set), 8);
}

TEST_P(Simd, ProductsWithKeys) {
  for_each_width(GetParam(), [](const auto& products, int bits) {
    for (Index heads = 1; heads <= max_heads; ++heads)
      for (Index depth_tiles = 1; depth_tiles <= 64; ++depth_tiles) {
        SCOPED_TRACE(::testing::Message() << heads << " heads, " << depth_tiles << " tiles");
        const Index lane_rows = 1 + (depth_tiles + heads) % 4;
        products.like_keys({heads, 8 * depth_tiles, lane_rows, lane_rows, bits,
                            static_cast<unsigned>(100 * heads + depth_tiles)});
        if (::testing::Test::HasFatalFailure()) return;
      }
  });
}

TEST_P(Simd, ProductsWithValues) {
  for_each_width(GetParam(), [](const auto& products, int bits) {
    for (Index heads = 1; heads <= max_heads; ++heads)
      for (const Index tokens : {32, 64, 128})
        for (const Index rows_per_group : {1, 2, 3, 4, 8})
          for (const Index lane_rows : {1, 2, 5, 8}) {
            const Product product(heads, tokens, lane_rows, rows_per_group, bits, 5);
            if (product.groups() * tokens > max_length) continue;
            SCOPED_TRACE(::testing::Message()
                         << heads << " heads, " << tokens << " tokens, " << lane_rows << " rows, "
                         << rows_per_group << " a group");
            products.like_values(product);
            if (::testing::Test::HasFatalFailure()) return;
          }
  });
}

TEST_P(Simd, LargestOperandsWithLargestCodes) {
  for_each_width(GetParam(), [](const auto& products, int bits) {
    for (Index heads = 1; heads <= max_heads; ++heads)
      for (const Index depths : {32, 128, 512})
        for (const double code : {0.0, std::ldexp(1, bits) - 1})
          for (const bool negative : {false, true}) {
            SCOPED_TRACE(::testing::Message() << heads << " heads, " << depths << " depths, code "
                                              << code << (negative ? ", negative" : ""));
            Product product(heads, depths, 3, 3, bits, 1);
            product.x.setConstant(negative ? -0.3f : 0.3f);
            product.scale.setConstant(2.5f);
            product.codes.setConstant(code);
            products.like_keys(product);
            if (depths <= max_block) products.like_values(product);
          }
  });
}

TEST_P(Simd, ZerosAndConstants) {
  for_each_width(GetParam(), [](const auto& products, int bits) {
    for (Index heads = 1; heads <= max_heads; ++heads) {
      Product zero(heads, 64, 2, 1, bits, 1);
      zero.x.row(heads - 1).setZero();  // no query, or tokens that are all hidden
      products.like_values(zero);
      Product constant(heads, 64, 2, 1, bits, 1);
      constant.scale.row(1).setZero();  // all values of a group are the same
      products.like_values(constant);
      Product keys(heads, 64, 2, 2, bits, 1);
      keys.scale.leftCols(40).setZero();  // channels that are constant
      keys.x.row(0).setZero();
      products.like_keys(keys);
      keys.scale.setZero();
      products.like_keys(keys);
    }
  });
}

TEST_P(Simd, TinyAndHugeNumbers) {
  for_each_width(GetParam(), [](const auto& products, int bits) {
    for (const float factor : {1e-12f, 1e-6f, 1e6f, 1e12f}) {
      SCOPED_TRACE(factor);
      Product product(3, 64, 2, 1, bits, 1);
      product.x *= factor;
      products.like_values(product);
      product = Product(3, 64, 2, 2, bits, 1);
      product.x *= factor;
      product.scale /= 1e3f;
      product.midpoint /= 1e3f;
      products.like_keys(product);
    }
  });
}

TEST_P(Simd, TryFold8RefusesPeaksAndLargeSteps) {
  for (Index heads = 1; heads <= max_heads; ++heads)
    for (const Index depths : {8, 64, 136}) {
      const Product good(heads, depths, 1, 1, 2, 3);
      const float root = std::sqrt(static_cast<float>(depths));
      for (Index row = 0; row < heads; ++row) {
        SCOPED_TRACE(::testing::Message()
                     << "row " << row << " of " << heads << ", " << depths << " depths");
        // All of a row in one depth: a crest of sqrt(depths).
        Product peaked = good;
        peaked.x.row(row).setConstant(1e-6f);
        peaked.x(row, depths / 2) = 10;
        EXPECT_FALSE((Folding<2, std::int8_t>(GetParam(), peaked).try_fold8(0.9f * root)));
        EXPECT_TRUE((Folding<2, std::int8_t>(GetParam(), peaked).try_fold8(1.1f * root)));
        Product large = good;
        large.x.row(row) *= 100;
        const auto alpha = [&](const Product& product) {
          return (product.x.row(row).array().abs() * product.scale.array()).maxCoeff() / 127;
        };
        const auto accepts = [&](float largest_alpha) {
          return Folding<2, std::int8_t>(GetParam(), large).try_fold8(1e9f, largest_alpha);
        };
        EXPECT_FALSE(accepts(0.98f * alpha(large)));
        EXPECT_TRUE(accepts(1.02f * alpha(large)));
      }
    }
}

TEST_P(Simd, TryFold8PositiveRefusesFewSquares) {
  for (Index heads = 1; heads <= max_heads; ++heads)
    for (const Index tokens : {32, 64, 128}) {
      Product product(heads, tokens, 5, 1, 2, 3);
      product.scale.setOnes();
      for (Index row = 0; row < heads; ++row)
        for (Index group = 0; group < product.groups(); ++group) {
          SCOPED_TRACE(::testing::Message() << "row " << row << " of " << heads << ", group "
                                            << group << ", " << tokens << " tokens");
          // One operand is 255 everywhere, but 51 in this row and group.
          product.x.setConstant(1e-6f);
          product.x.col(7).setOnes();
          product.x(row, 7) = 0.2f;
          product.x(row, 8) = 1;
          Product peaked = product;
          peaked.scale(group, 8) = 0;
          const auto accepts = [&](std::int32_t least) {
            return Folding<2, std::uint8_t>(GetParam(), peaked).try_fold8_positive(least);
          };
          EXPECT_TRUE(accepts(50 * 50));
          EXPECT_FALSE(accepts(52 * 52));
          // Zeros are always fine.
          peaked.x.row(row).setZero();
          EXPECT_TRUE(accepts(52 * 52));
          peaked.x = product.x;
          peaked.scale.row(group).setZero();
          EXPECT_TRUE(accepts(52 * 52));
        }
    }
}

}  // namespace
}  // namespace squat::detail::simd
