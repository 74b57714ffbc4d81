// The packed records: sizes, and where codes, scales and zeros lie.
#include <gtest/gtest.h>

#include <cstring>
#include <squat/detail/records/key_record_layout.hpp>
#include <squat/detail/records/value_record_layout.hpp>

#include "expect_error.hpp"
#include "round_trip.hpp"

namespace squat::testing {

using namespace detail;
namespace {

Config layout(Index token_group_size, int scale_bits) {
  Config config;
  config.token_group_size = token_group_size;
  config.scale_bits = scale_bits;
  return config;
}

Config token_layout(Index token_group_size, Index key_group_size, int scale_bits) {
  Config config = layout(token_group_size, scale_bits);
  config.key_scales = KeyScales::per_token;
  config.key_group_size = key_group_size;
  return config;
}

TEST(KeyRecordLayout, HasTheDocumentedSize) {
  // 32 tokens of 128 channels: 1024 bytes of codes, 128 scales and as many zeros.
  EXPECT_EQ((KeyRecordLayout(128, 2, layout(32, 16)).code_bytes()), 1024);
  EXPECT_EQ((KeyRecordLayout(128, 2, layout(32, 16)).bytes()), 1024 + 512);
  EXPECT_EQ((KeyRecordLayout(128, 2, layout(32, 32)).bytes()), 1024 + 1024);
  EXPECT_EQ((KeyRecordLayout(128, 3, layout(64, 16)).bytes()), 3072 + 512);
  EXPECT_EQ((KeyRecordLayout(64, 4, layout(32, 16)).bytes()), 1024 + 256);
  EXPECT_EQ((KeyRecordLayout(512, 8, layout(128, 16)).bytes()), 65536 + 2048);
  EXPECT_EQ((KeyRecordLayout(8, 3, layout(32, 16)).bytes()), 96 + 32);
}

TEST(KeyRecordLayout, HasTheDocumentedSizeWithScalesPerToken) {
  // 32 tokens of 128 channels in groups of 32, and in one group.
  EXPECT_EQ((KeyRecordLayout(128, 2, token_layout(32, 32, 16)).code_bytes()), 1024);
  EXPECT_EQ((KeyRecordLayout(128, 2, token_layout(32, 0, 16)).bytes()), 1024 + 32 * 4 * 4);
  EXPECT_EQ((KeyRecordLayout(128, 2, token_layout(32, 128, 16)).bytes()), 1024 + 32 * 4);
  EXPECT_EQ((KeyRecordLayout(128, 2, token_layout(32, 512, 8)).bytes()), 1024 + 32 * 2);
  // 40 channels are two groups, the second of 8 channels.
  EXPECT_EQ((KeyRecordLayout(40, 3, token_layout(64, 32, 32)).bytes()),
            40 * 64 * 3 / 8 + 64 * 2 * 8);
}

TEST(ValueRecordLayout, HasTheDocumentedSize) {
  // 32 tokens of 128 channels in groups of 32: four scales and as many zeros a token.
  EXPECT_EQ((ValueRecordLayout(128, 2, layout(32, 16)).code_bytes()), 1024);
  EXPECT_EQ((ValueRecordLayout(128, 2, layout(32, 16)).bytes()), 1024 + 512);
  EXPECT_EQ((ValueRecordLayout(128, 2, layout(32, 32)).bytes()), 1024 + 1024);
  EXPECT_EQ((ValueRecordLayout(128, 3, layout(64, 16)).bytes()), 3072 + 512);
  EXPECT_EQ((ValueRecordLayout(512, 8, layout(128, 16)).bytes()), 65536 + 2048);
  // 40 channels are 3 tiles of 16 lanes and 2 groups, the second of 8 channels.
  EXPECT_EQ((ValueRecordLayout(40, 2, layout(32, 16)).bytes()), 48 * 32 / 4 + 2 * 2 * 32 * 2);
  // 8 channels are half a tile, and one group.
  EXPECT_EQ((ValueRecordLayout(8, 3, layout(32, 16)).bytes()), 16 * 32 * 3 / 8 + 2 * 32 * 2);
}

TEST(ValueRecordLayout, SplitsChannelsIntoGroups) {
  const ValueRecordLayout block(80, 2, layout(32, 16));
  ASSERT_EQ(block.groups(), 3);
  for (Index group = 0; group < 3; ++group) EXPECT_EQ(block.group_begin(group), 32 * group);
  EXPECT_EQ(block.group_end(0), 32);
  EXPECT_EQ(block.group_end(1), 64);
  EXPECT_EQ(block.group_end(2), 80);
  // One group where all channels fit in.
  const ValueRecordLayout small(24, 2, layout(64, 16));
  ASSERT_EQ(small.groups(), 1);
  EXPECT_EQ(small.group_end(0), 24);
}

template <class T>
T read_number(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Writes one code and one scale, and looks for them at the documented place.

TEST(KeyRecordLayout, LiesInMemoryAsDocumented) {
  const Index head_dim = 24;
  const KeyRecordLayout block(head_dim, 4, layout(32, 16));
  for (const Index token : {0, 5, 16, 31})
    for (const Index channel : {0, 7, 8, 23}) {
      Record record(block.bytes());
      reinterpret_cast<CodeTile<4>*>(
          block.tile(record.data(), block.runs().front(), 0, token, channel))
          ->set(token % 16, channel % 8, 9);
      CodeTile<4> tile;
      const std::byte* tiles = record.data() + 2 * head_dim * 2;
      std::memcpy(&tile, tiles + sizeof tile * (token / 16 * (head_dim / 8) + channel / 8),
                  sizeof tile);
      EXPECT_EQ(tile.get(token % 16, channel % 8), 9) << "token " << token << " " << channel;

      block.set_affine<float>(record.data(), channel, {0.5f, -3.0f});
      EXPECT_EQ(read_number<Eigen::half>(record.data() + 2 * channel), Eigen::half(0.5f));
      EXPECT_EQ(read_number<Eigen::half>(record.data() + 2 * (head_dim + channel)),
                Eigen::half(-3.0f));
    }
}

TEST(KeyRecordLayout, LiesInMemoryAsDocumentedWithScalesPerToken) {
  const Index head_dim = 80, tokens = 64;
  const KeyRecordLayout block(head_dim, 4, token_layout(tokens, 32, 32));
  const TokenGroups& groups = block.groups();
  ASSERT_EQ(groups.groups(), 3);
  for (const Index token : {0, 15, 16, 63})
    for (const Index channel : {0, 31, 32, 79}) {
      Record record(block.bytes());
      std::uint8_t codes[head_dim] = {};
      codes[channel] = 9;
      block.set_codes(record.data(), token, codes, 1);
      const Index group = channel / 32, width = groups.group_end(group) - 32 * group;
      CodeTile<4> tile;
      const std::byte* tiles = record.data() + 2 * 3 * tokens * 4 + 32 * group * tokens * 4 / 8;
      std::memcpy(&tile,
                  tiles + sizeof tile * (token / 16 * (width / 8) + (channel - 32 * group) / 8),
                  sizeof tile);
      EXPECT_EQ(tile.get(token % 16, channel % 8), 9) << "token " << token << " " << channel;

      block.set_affine<float>(record.data(), token, group, {0.1f, -3.3f});
      EXPECT_EQ(read_number<float>(record.data() + 4 * (tokens * group + token)), 0.1f);
      EXPECT_EQ(read_number<float>(record.data() + 4 * (tokens * (3 + group) + token)), -3.3f);
    }
}

TEST(KeyRecordLayout, RefusesWidthsOfTheirOwnWithScalesPerToken) {
  EXPECT_ERROR(KeyRecordLayout(16, BitAllocation{{}, {2, 3}}, token_layout(32, 0, 16)),
               "allocation", "one width");
}

TEST(ValueRecordLayout, LiesInMemoryAsDocumented) {
  const Index head_dim = 40, tokens = 64;
  const ValueRecordLayout block(head_dim, 4, layout(tokens, 32));
  for (const Index token : {0, 7, 8, 63})
    for (const Index channel : {0, 15, 16, 39}) {
      Record record(block.bytes());
      reinterpret_cast<CodeTile<4>*>(block.tile(record.data(), token, channel))
          ->set(channel % 16, token % 8, 9);
      CodeTile<4> tile;
      const std::byte* tiles = record.data() + 2 * 1 * tokens * 4;  // one group
      std::memcpy(&tile, tiles + sizeof tile * (channel / 16 * (tokens / 8) + token / 8),
                  sizeof tile);
      EXPECT_EQ(tile.get(channel % 16, token % 8), 9) << "token " << token << " " << channel;
    }

  const ValueRecordLayout grouped(96, 2, layout(32, 32));
  for (const Index token : {0, 31})
    for (const Index group : {0, 2}) {
      Record record(grouped.bytes());
      grouped.set_affine<float>(record.data(), token, group, {0.1f, -3.3f});
      EXPECT_EQ(read_number<float>(record.data() + 4 * (32 * group + token)), 0.1f);
      EXPECT_EQ(read_number<float>(record.data() + 4 * (32 * 3 + 32 * group + token)), -3.3f);
    }
}

TEST(AffineTable, KeepsWhatItWasGiven) {
  for (const int scale_bits : {16, 32}) {
    const Index entries = 5;
    const AffineTable table(entries, scale_bits, true);
    ASSERT_EQ(table.bytes(), 2 * entries * scale_bits / 8);
    Record record(table.bytes());
    for (Index entry = 0; entry < entries; ++entry) {
      const float x = static_cast<float>(entry) + 0.1f;
      table.set<float>(record.data(), entry, {as_stored(x, scale_bits), as_stored(-x, scale_bits)},
                       3.0f, 0.0f);
    }
    for (Index entry = 0; entry < entries; ++entry) {
      const float x = static_cast<float>(entry) + 0.1f;
      EXPECT_EQ(table.get<double>(record.data(), entry, 3.0, 0.0).scale, as_stored(x, scale_bits));
      EXPECT_EQ(table.get<double>(record.data(), entry, 3.0, 0.0).zero, as_stored(-x, scale_bits));
    }
  }
}

Matrix<float> decode_by_hand(const KeyRecordLayout& block, const std::byte* record) {
  Matrix<float> out(block.tokens(), block.head_dim());
  for (Index token = 0; token < out.rows(); ++token)
    for (Index channel = 0; channel < out.cols(); ++channel) {
      const auto affine = block.is_per_token() ? block.affine<float>(record, token, channel / 32)
                                               : block.affine<float>(record, channel);
      const int code = block.code(record, token, channel);
      out(token, channel) = affine.scale * static_cast<float>(code) + affine.zero;
    }
  return out;
}

Matrix<float> decode_by_hand(const ValueRecordLayout& block, const std::byte* record) {
  Matrix<float> out(block.tokens(), block.head_dim());
  for (Index token = 0; token < out.rows(); ++token)
    for (Index channel = 0; channel < out.cols(); ++channel) {
      const Index group = channel / 32;
      const auto affine = block.affine<float>(record, token, group);
      const int code = block.code(record, token, channel);
      out(token, channel) = affine.scale * static_cast<float>(code) + affine.zero;
    }
  return out;
}

template <class Block>
void expect_decoding(const Block& block) {
  Record record(block.bytes());
  for (Index i = 0; i < block.bytes(); ++i)
    record.data()[i] = static_cast<std::byte>(i * 37 + i / 256);
  for (Index i = 0; i < 2 * block.table().entries(); ++i) {
    const Eigen::half number(0.25f * static_cast<float>(i % 40) + 0.25f);
    std::memcpy(record.data() + 2 * i, &number, 2);
  }
  const Matrix<float> expected = decode_by_hand(block, record.data());
  // Any number of the first tokens, and not an element more.
  for (Index tokens = 0; tokens <= block.tokens(); ++tokens) {
    Matrix<float> out = Matrix<float>::Constant(block.tokens(), block.head_dim(), -1);
    block.dequantize(record.data(), tokens, out.data());
    EXPECT_EQ(out.topRows(tokens), expected.topRows(tokens));
    EXPECT_TRUE((out.bottomRows(block.tokens() - tokens).array() == -1).all());
  }
}

TEST(KeyRecordLayout, DecodesItsFirstTokens) {
  expect_decoding(KeyRecordLayout(40, 2, layout(32, 16)));
  expect_decoding(KeyRecordLayout(40, 3, layout(32, 16)));
  expect_decoding(KeyRecordLayout(8, 4, layout(64, 16)));
  expect_decoding(KeyRecordLayout(40, 8, layout(32, 16)));
  expect_decoding(KeyRecordLayout(40, 2, token_layout(32, 32, 16)));
  expect_decoding(KeyRecordLayout(72, 5, token_layout(64, 32, 16)));
}

TEST(ValueRecordLayout, DecodesItsFirstTokens) {
  expect_decoding(ValueRecordLayout(40, 2, layout(32, 16)));
  expect_decoding(ValueRecordLayout(40, 3, layout(32, 16)));
  expect_decoding(ValueRecordLayout(8, 4, layout(32, 16)));
  expect_decoding(ValueRecordLayout(72, 8, layout(32, 16)));
}

}  // namespace
}  // namespace squat::testing
