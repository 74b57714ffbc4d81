// The packed tile: every code at every position, and where its bits lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <squat/detail/records/code_tile.hpp>
#include <vector>

namespace squat::testing {

using namespace detail;
namespace {

template <class Constant>
class CodeTiles : public ::testing::Test {
 protected:
  static constexpr int bits = Constant::value;
  using Tile = CodeTile<bits>;

  /// A tile of random bytes: whatever a call does not have to touch must stay.
  static Tile random_tile(unsigned seed) {
    std::mt19937 random(seed);
    Tile tile;
    for (std::uint8_t& byte : tile.bytes) byte = static_cast<std::uint8_t>(random());
    return tile;
  }

  template <class Visit>
  static void for_each_position(Visit&& visit) {
    for (Index lane = 0; lane < Tile::lanes; ++lane)
      for (Index depth = 0; depth < Tile::depths; ++depth) visit(lane, depth);
  }
};

template <int Bits>
using Constant = std::integral_constant<int, Bits>;
using EveryBits = ::testing::Types<Constant<1>, Constant<2>, Constant<3>, Constant<4>, Constant<8>>;
TYPED_TEST_SUITE(CodeTiles, EveryBits, );

/// A run of bits of a byte, and the bits of the code that are there.
struct BitField {
  Index byte;
  Index shift;
  int width;
  int code_shift;
};

/// The table of CodeTile's documentation.
std::vector<BitField> documented_fields(int bits, Index lane, Index depth) {
  const Index i = 4 * (lane % 8) + depth % 4, s = 2 * (depth / 4) + lane / 8;
  switch (bits) {
    case 1:
      return {{i % 16, 2 * s + i / 16, 1, 0}};
    case 2:
      return {{i, 2 * s, 2, 0}};
    case 3:
      return {{i, 2 * s, 2, 0}, {32 + i % 16, 2 * s + i / 16, 1, 2}};
    case 4:
      return {{32 * (s % 2) + i, s < 2 ? 0 : 4, 4, 0}};
    default:
      return {{32 * s + i, 0, 8, 0}};
  }
}

TYPED_TEST(CodeTiles, AreNothingButCodes) {
  EXPECT_EQ(sizeof(typename TestFixture::Tile), 128u * this->bits / 8);
}

TYPED_TEST(CodeTiles, PutCodesWhereTheDocumentationSays) {
  const auto tile = this->random_tile(1);
  this->for_each_position([&](Index lane, Index depth) {
    int code = 0;
    for (const BitField& field : documented_fields(this->bits, lane, depth))
      code |= (tile.bytes[field.byte] >> field.shift & ((1 << field.width) - 1))
              << field.code_shift;
    EXPECT_EQ(tile.get(lane, depth), code) << "lane " << lane << ", depth " << depth;
  });
}

// Literal spot checks, so that get() and the table above cannot be wrong together.
TEST(CodeTile, LayoutByExample) {
  CodeTile<2> two = {};
  two.set(9, 6, 3);  // quarter 2 * 1 + 1 = 3, number 4 * 1 + 2 = 6
  EXPECT_EQ(two.bytes[6], 0xC0);
  CodeTile<3> three = {};
  three.set(13, 2, 5);  // quarter 1, number 22; 5 is 0b101
  EXPECT_EQ(three.bytes[22], 1 << 2);
  EXPECT_EQ(three.bytes[32 + 6], 1 << 3);
  CodeTile<4> four = {};
  four.set(15, 7, 0xA);  // quarter 3, number 31
  four.set(15, 3, 0x5);  // quarter 1, number 31
  EXPECT_EQ(four.bytes[63], 0xA5);
  CodeTile<8> eight = {};
  eight.set(0, 4, 200);  // quarter 2, number 0
  EXPECT_EQ(eight.bytes[64], 200);
}

TYPED_TEST(CodeTiles, SetChangesOneCodeAlone) {
  const auto before = this->random_tile(2);
  this->for_each_position([&](Index lane, Index depth) {
    for (int code = 0; code < 1 << this->bits; ++code) {
      auto tile = before;
      tile.set(lane, depth, code);
      ASSERT_EQ(tile.get(lane, depth), code) << "lane " << lane << ", depth " << depth;
      tile.set(lane, depth, before.get(lane, depth));
      ASSERT_EQ(std::memcmp(&tile, &before, sizeof tile), 0)
          << "lane " << lane << ", depth " << depth << ", code " << code;
    }
  });
}

TYPED_TEST(CodeTiles, PackIsSetOfEveryCode) {
  using Tile = typename TestFixture::Tile;
  std::mt19937 random(3);
  for (int repetition = 0; repetition < 100; ++repetition) {
    std::uint8_t codes[Tile::depths][Tile::lanes];
    auto expected = this->random_tile(4), packed = this->random_tile(5);
    this->for_each_position([&](Index lane, Index depth) {
      codes[depth][lane] = static_cast<std::uint8_t>(random() % (1u << this->bits));
      expected.set(lane, depth, codes[depth][lane]);
    });
    packed.pack(codes);
    ASSERT_EQ(std::memcmp(&packed, &expected, sizeof packed), 0);

    std::uint8_t unpacked[Tile::depths][Tile::lanes];
    packed.unpack(unpacked);
    ASSERT_EQ(std::memcmp(unpacked, codes, sizeof codes), 0);
  }
}

}  // namespace
}  // namespace squat::testing
