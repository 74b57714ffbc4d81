// KeyQuantizer and ValueQuantizer on their own, as a caller with another cache uses them.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "expect_error.hpp"
#include "random_matrix.hpp"
#include "round_trip.hpp"

namespace squat::testing {

using namespace detail;
namespace {

constexpr Index head_dim = 40;
constexpr Index tokens = 32;

bool same_record(const Record& a, const Record& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size())) == 0;
}

ErrorFeedback<float> some_feedback() {
  SecondMoment moment(head_dim);
  moment.add<float>(correlated_matrix<float>(100, head_dim, 1));
  return ErrorFeedback<float>(QuerySubspace::fit(moment, 6, 0.1), 4);
}

template <class Scalar, int Bits>
Record quantize(const Matrix<Scalar>& keys, const ErrorFeedback<float>& feedback,
                const Mask& mask = {}, const Config& config = {}) {
  const KeyQuantizer<Scalar> quantizer(head_dim, Bits, config);
  Record record(quantizer.block().bytes());
  quantizer.quantize(keys, feedback, record.data(), mask);
  return record;
}

TEST(KeyQuantizer, WithoutFeedbackQuantizesEachChannelAlone) {
  const Matrix<float> keys = correlated_matrix<float>(tokens, head_dim, 2);
  const KeyRecordLayout block(head_dim, 3, Config{});
  for (const Backend backend : {Backend::quanto, Backend::hqq}) {
    Config config;
    config.backend = backend;
    const Record record = quantize<float, 3>(keys, ErrorFeedback<float>(head_dim), {}, config);
    for (Index channel = 0; channel < head_dim; ++channel) {
      const Eigen::VectorXf x = keys.col(channel);
      const Affine<float> expected =
          fit_affine(x.data(), tokens, {3, config.scale_bits, LayerSettings(config).key_fit});
      const auto affine = block.affine<float>(record.data(), channel);
      EXPECT_EQ(affine.scale, expected.scale);
      EXPECT_EQ(affine.zero, expected.zero);
      for (Index token = 0; token < tokens; ++token)
        EXPECT_EQ(static_cast<float>(block.code(record.data(), token, channel)),
                  nearest_code(x[token], expected, inverse_scale(expected), 7.0f));
    }
  }
}

TEST(KeyQuantizer, MaskedTokensWidenNoRange) {
  Matrix<float> keys = correlated_matrix<float>(tokens, head_dim, 3), neighbours = keys;
  std::vector<std::uint8_t> valid(tokens, 1);
  // The first valid token stands in for those before it, and each for those behind it.
  for (const Index token : {0, 1, 10, 11, 31}) {
    valid[static_cast<std::size_t>(token)] = 0;
    keys.row(token).setConstant(std::numeric_limits<float>::quiet_NaN());
    neighbours.row(token) = neighbours.row(token < 2 ? 2 : token == 31 ? 30 : 9);
  }
  const ErrorFeedback<float> feedback = some_feedback();
  EXPECT_TRUE(same_record(quantize<float, 2>(keys, feedback, valid),
                          quantize<float, 2>(neighbours, feedback)));
}

TEST(KeyQuantizer, MaskedTokensLeaveValidOnesAsThePublishedFillDoes) {
  Matrix<float> keys = correlated_matrix<float>(tokens, head_dim, 7), filled = keys;
  std::vector<std::uint8_t> valid(tokens, 1);
  for (const Index token : {0, 1, 2, 15, 16, 30}) valid[static_cast<std::size_t>(token)] = 0;
  for (Index token = 0; token < tokens; ++token)
    if (!Mask(valid)[token]) filled.row(token) = keys.row(3);  // the first valid one
  const KeyRecordLayout block(head_dim, 2, Config{});
  const Record masked = quantize<float, 2>(keys, some_feedback(), valid);
  const Record published = quantize<float, 2>(filled, some_feedback());
  for (Index channel = 0; channel < head_dim; ++channel) {
    const auto got = block.affine<float>(masked.data(), channel);
    const auto expected = block.affine<float>(published.data(), channel);
    EXPECT_EQ(got.scale, expected.scale);
    EXPECT_EQ(got.zero, expected.zero);
    for (Index token = 0; token < tokens; ++token)
      if (Mask(valid)[token]) {
        EXPECT_EQ(block.code(masked.data(), token, channel),
                  block.code(published.data(), token, channel));
      }
  }
}

TEST(KeyQuantizer, TakesHalvesForWhatTheyAre) {
  const Matrix<Eigen::half> keys = correlated_matrix<Eigen::half>(tokens, head_dim, 4);
  const ErrorFeedback<float> feedback = some_feedback();
  EXPECT_TRUE(same_record(quantize<Eigen::half, 2>(keys, feedback),
                          quantize<float, 2>(keys.cast<float>(), feedback)));
}

TEST(KeyQuantizer, TakesRowsAnyStrideApart) {
  const Matrix<float> wide = correlated_matrix<float>(tokens, 3 * head_dim, 5);
  const Matrix<float> keys = wide.middleCols(head_dim, head_dim);
  const KeyQuantizer<float> quantizer(head_dim, 2, Config{});
  Record record(quantizer.block().bytes());
  quantizer.quantize(wide.middleCols(head_dim, head_dim), some_feedback(), record.data());
  EXPECT_TRUE(same_record(record, quantize<float, 2>(keys, some_feedback())));
}

template <class Scalar>
void expect_blocks_as_one_by_one(const Config& config) {
  constexpr Index blocks = 3;
  const Index block_tokens = config.token_group_size;
  const Matrix<Scalar> keys = correlated_matrix<Scalar>(blocks * block_tokens, head_dim, 8);
  std::vector<std::uint8_t> valid(static_cast<std::size_t>(keys.rows()), 1);
  // Stand-ins come from the same block.
  for (const Index token : {Index{3}, block_tokens - 1, block_tokens, 2 * block_tokens})
    valid[static_cast<std::size_t>(token)] = 0;
  SecondMoment moment(head_dim);
  moment.add<float>(correlated_matrix<float>(100, head_dim, 1));
  const ErrorFeedback<ComputeType<Scalar>> feedback(QuerySubspace::fit(moment, 6, 0.1),
                                                    config.quant_group_size);
  const KeyQuantizer<Scalar> quantizer(KeyRecordLayout(head_dim, even_bits(head_dim, 2.6), config),
                                       config);
  for (const bool masked : {false, true}) {
    const std::uint8_t* mask = masked ? valid.data() : nullptr;
    std::vector<Record> together(blocks, Record(quantizer.block().bytes())), alone = together;
    std::byte* records[blocks];
    for (std::size_t i = 0; i < blocks; ++i) records[i] = together[i].data();
    quantizer.quantize_blocks(keys, feedback, {records, blocks},
                              masked ? Mask(mask, keys.rows()) : Mask());
    for (Index i = 0; i < blocks; ++i) {
      Record& record = alone[static_cast<std::size_t>(i)];
      const Index first = i * block_tokens;
      quantizer.quantize(keys.middleRows(first, block_tokens), feedback, record.data(),
                         masked ? Mask(mask + first, block_tokens) : Mask());
      EXPECT_TRUE(same_record(together[static_cast<std::size_t>(i)], record)) << "block " << i;
    }
  }
}

TEST(KeyQuantizer, BlocksSideBySideAreThoseOneByOne) {
  for (const Index step : {1, 4, 5, 8, 64})
    for (const Backend backend : {Backend::quanto, Backend::hqq, Backend::unbiased})
      for (const Index group : {32, 64}) {
        SCOPED_TRACE(::testing::Message() << "step " << step << ", backend "
                                          << static_cast<int>(backend) << ", groups of " << group);
        Config config;
        config.adaptive_bits = true;
        config.quant_group_size = step;
        config.backend = backend;
        config.token_group_size = config.residual_length = group;
        expect_blocks_as_one_by_one<float>(config);
        expect_blocks_as_one_by_one<double>(config);
      }
}

TEST(KeyQuantizer, RefusesWhatItCannotQuantize) {
  const KeyQuantizer<float> quantizer(head_dim, 2, Config{});
  const Matrix<float> keys = random_matrix<float>(tokens, head_dim, 6);
  const ErrorFeedback<float> feedback(head_dim);
  const std::vector<std::uint8_t> short_mask(31, 1);
  Record record(quantizer.block().bytes());
  std::memset(record.data(), 0x5A, static_cast<std::size_t>(record.size()));
  const Record before = record;
  EXPECT_ERROR(quantizer.quantize(keys.topRows(31), feedback, record.data()), "keys", "[31, 40]",
               "[32, 40]");
  EXPECT_ERROR(quantizer.quantize(keys.leftCols(32), feedback, record.data()), "keys", "[32, 32]",
               "[32, 40]");
  EXPECT_ERROR(quantizer.quantize(keys, feedback, record.data(), short_mask), "mask", "31", "32");
  EXPECT_ERROR(quantizer.quantize(keys, ErrorFeedback<float>(48), record.data()), "feedback", "48",
               "40");
  EXPECT_TRUE(same_record(record, before));

  EXPECT_ERROR(quantizer.quantize(keys, feedback, record.data(), {}, 1), "slots from 1");

  std::byte* const records[] = {record.data(), record.data()};
  EXPECT_ERROR(quantizer.quantize_blocks(keys, feedback, {records, 2}), "keys", "[32, 40]",
               "[64, 40]");
  EXPECT_ERROR(quantizer.quantize_blocks(keys, feedback, {records, 5}), "records", "5", "1 to 4");
  EXPECT_TRUE(same_record(record, before));

  Config config;
  config.key_scales = KeyScales::per_token;
  const KeyQuantizer<float> per_token(head_dim, 2, config);
  Record tokens_record(per_token.block().bytes());
  for (const Index slot : {-1, 1})
    EXPECT_ERROR(per_token.quantize(keys, feedback, tokens_record.data(), {}, slot), "keys",
                 "[32, 40]", slot < 0 ? "slots from -1" : "slots from 1");
  EXPECT_ERROR(per_token.quantize_blocks(keys, feedback, {records, 1}), "key_scales", "per_token",
               "per_channel");
  EXPECT_ERROR(per_token.quantize(keys.topRows(4), feedback, tokens_record.data(), short_mask),
               "mask", "31", "4");

  config = {};
  config.scale_bits = 12;
  EXPECT_ERROR((KeyQuantizer<float>(head_dim, 2, config)), "config.scale_bits", "12",
               "8, 16 or 32");
  EXPECT_ERROR((KeyQuantizer<float>(12, 2, Config{})), "head_dim", "12", "multiple of 8");
}

TEST(ErrorFeedback, RefusesWhatItCannotFactor) {
  const QuerySubspace subspace =
      QuerySubspace::fit(SecondMoment(16), 2, 0.1);  // of no queries: A is the identity
  EXPECT_ERROR(ErrorFeedback<float>(subspace, 0), "step", "0", "at least 1");
  const Matrix<double> identity = Matrix<double>::Identity(16, 16);
  EXPECT_ERROR(ErrorFeedback<float>(identity, -1), "step", "-1", "at least 1");
  EXPECT_ERROR(ErrorFeedback<float>(identity.topRows(8), 1), "metric", "[8, 16]", "square");
  EXPECT_ERROR(ErrorFeedback<float>(Matrix<double>(0, 0), 1), "metric", "[0, 0]", "not empty");
  EXPECT_ERROR(ErrorFeedback<float>(Matrix<double>(-identity), 1), "metric",
               "not positive definite");
}

TEST(ValueQuantizer, QuantizesEachTokenAlone) {
  const Matrix<float> values = correlated_matrix<float>(tokens, head_dim, 7);
  const ValueQuantizer<float> quantizer(head_dim, 2, Config{});
  const ValueRecordLayout& block = quantizer.block();
  Record forwards(block.bytes()), backwards(block.bytes());
  for (Index token = 0; token < tokens; ++token) {
    quantizer.quantize(values.row(token).data(), forwards.data(), token);
    const Index other = tokens - 1 - token;
    quantizer.quantize(values.row(other).data(), backwards.data(), other);
  }
  EXPECT_TRUE(same_record(forwards, backwards));

  Matrix<float> decoded(tokens, head_dim);
  block.dequantize(forwards.data(), tokens, decoded.data());
  for (Index token = 0; token < tokens; ++token)
    for (Index group = 0; group < 2; ++group) {
      const Index begin = 32 * group, count = group == 0 ? 32 : 8;
      const float* x = values.row(token).data() + begin;
      const Affine<float> expected =
          fit_affine(x, count, {2, Config{}.scale_bits, ScaleFit::min_max});
      for (Index i = 0; i < count; ++i)
        EXPECT_EQ(decoded(token, begin + i),
                  expected.scale * nearest_code(x[i], expected, inverse_scale(expected), 3.0f) +
                      expected.zero);
    }
}

TEST(ValueQuantizer, HeadsSideBySideAreThoseOneByOne) {
  for (const Config& config : {Config{}, Config::recommended(2.5)})
    for (const Index dim : {8, 64, 96, 200, 512}) {
      const Index heads = 11;
      const Matrix<float> values = correlated_matrix<float>(heads, dim, 7);
      const ValueQuantizer<float> quantizer(dim, 3, config);
      std::vector<Record> together(heads, Record(quantizer.block().bytes())), alone = together;
      quantizer.quantize_heads(values.data(), heads, 5, [&](Index head) {
        return together[static_cast<std::size_t>(head)].data();
      });
      for (Index head = 0; head < heads; ++head) {
        Record& record = alone[static_cast<std::size_t>(head)];
        quantizer.quantize(values.row(head).data(), record.data(), 5);
        EXPECT_TRUE(same_record(together[static_cast<std::size_t>(head)], record))
            << "head_dim " << dim << ", head " << head;
      }
    }
}

TEST(ValueQuantizer, TakesHalvesForWhatTheyAre) {
  const Matrix<Eigen::bfloat16> values = correlated_matrix<Eigen::bfloat16>(1, head_dim, 8);
  const Matrix<float> same = values.cast<float>();
  const ValueQuantizer<Eigen::bfloat16> quantizer(head_dim, 2, Config{});
  Record record(quantizer.block().bytes()), expected(quantizer.block().bytes());
  quantizer.quantize(values.data(), record.data(), 5);
  ValueQuantizer<float>(head_dim, 2, Config{}).quantize(same.data(), expected.data(), 5);
  EXPECT_TRUE(same_record(record, expected));
}

TEST(ValueQuantizer, RefusesWhatItCannotQuantize) {
  const ValueQuantizer<float> quantizer(head_dim, 2, Config{});
  const Matrix<float> value = random_matrix<float>(1, head_dim, 9);
  Record record(quantizer.block().bytes());
  const Record before = record;
  EXPECT_ERROR(quantizer.quantize(value.data(), record.data(), -1), "token", "-1", "32");
  EXPECT_ERROR(quantizer.quantize(value.data(), record.data(), 32), "token", "32");
  EXPECT_TRUE(same_record(record, before));
  EXPECT_ERROR((ValueQuantizer<float>(520, 2, Config{})), "head_dim", "520", "512");
}

}  // namespace
}  // namespace squat::testing
