// Quantizers against the codes, scales and zeros of the NumPy oracle.
#include <gtest/gtest.h>

#include <string>
#include <type_traits>

#include "fixtures.hpp"
#include "round_trip.hpp"

namespace squat::testing {

using namespace detail;
namespace {

/// Calls visit with `bits` as a compile-time constant.
template <class Visit>
void with_bits(int bits, Visit&& visit) {
  if (bits == 2) visit(std::integral_constant<int, 2>());
  if (bits == 3) visit(std::integral_constant<int, 3>());
  if (bits == 4) visit(std::integral_constant<int, 4>());
  if (bits == 8) visit(std::integral_constant<int, 8>());
}

template <class Scalar>
QuerySubspace fit_by_moment(const fixtures::Doubles& queries, Index rank, double lambda) {
  SecondMoment moment(queries.cols());
  moment.add<Scalar>(queries.template cast<Scalar>());
  return QuerySubspace::fit(moment, rank, lambda);
}

/// How far a quantizer's answer is from the oracle's.
struct Differences {
  Index codes = 0;         // codes that differ
  double scale = 0;        // the largest difference of a scale, of groups that are not constant
  double zero = 0;         // the largest of a zero point
  double dequantized = 0;  // the largest of a dequantized element

  void add(const Affine<double>& affine, double oracle_scale, double oracle_zero) {
    if (affine.scale != 0) scale = std::max(scale, std::abs(affine.scale - oracle_scale));
    zero = std::max(zero, std::abs(affine.zero - oracle_zero));
  }
};

template <class Scalar>
Differences compare_keys(const fixtures::KeyCase& c,
                         const ErrorFeedback<ComputeType<Scalar>>& feedback) {
  Differences worst;
  const Matrix<Scalar> keys = c.keys.cast<Scalar>();
  with_bits(c.bits, [&](auto bits) {
    const auto decoded = round_trip_keys<Scalar, bits>(
        keys, feedback, single_precision_scales(c.group),
        [&](const auto& block, const std::byte* record, Index first) {
          for (Index channel = 0; channel < keys.cols(); ++channel) {
            const Index group = first / c.group;
            worst.add(block.template affine<double>(record, channel), c.scales(group, channel),
                      c.zeros(group, channel));
            for (Index token = 0; token < block.tokens(); ++token)
              worst.codes += block.code(record, token, channel) != c.codes(first + token, channel);
          }
        });
    worst.dequantized = (decoded.template cast<double>() - c.dequantized).cwiseAbs().maxCoeff();
  });
  return worst;
}

template <class Scalar>
Differences compare_values(const fixtures::ValueCase& c) {
  Differences worst;
  const Matrix<Scalar> values = c.values.cast<Scalar>();
  with_bits(c.bits, [&](auto bits) {
    const ValueQuantizer<Scalar> quantizer(values.cols(), bits, single_precision_scales(c.group));
    const ValueRecordLayout& block = quantizer.block();
    Record record(block.bytes());
    Matrix<double> decoded(block.tokens(), values.cols());
    for (Index first = 0; first < values.rows(); first += block.tokens()) {
      for (Index slot = 0; slot < block.tokens(); ++slot)
        quantizer.quantize(values.row(first + slot).data(), record.data(), slot);
      block.dequantize(record.data(), block.tokens(), decoded.data());
      for (Index slot = 0; slot < block.tokens(); ++slot) {
        const Index token = first + slot;
        for (Index channel = 0; channel < values.cols(); ++channel) {
          const Index group = channel / c.group;
          const auto affine = block.template affine<double>(record.data(), slot, group);
          worst.add(affine, c.scales(token, group), c.zeros(token, group));
          worst.codes += block.code(record.data(), slot, channel) != c.codes(token, channel);
        }
      }
      worst.dequantized = std::max(
          worst.dequantized,
          (decoded - c.dequantized.middleRows(first, block.tokens())).cwiseAbs().maxCoeff());
    }
  });
  return worst;
}

/// Codes of `keys` under `feedback` when nothing rounds scales and zeros: what the oracle does.
fixtures::Codes codes_with_exact_scales(const fixtures::KeyCase& c,
                                        const ErrorFeedback<double>& feedback) {
  const double max_code = (1 << c.bits) - 1;
  fixtures::Codes codes(c.keys.rows(), c.keys.cols());
  for (Index first = 0; first < c.keys.rows(); first += c.group) {
    Matrix<double> x = c.keys.middleRows(first, c.group).transpose();
    Matrix<double> errors(x.rows(), c.group);
    ErrorFeedback<double>::Carry carry(feedback, c.group);
    for (Index begin = 0; begin < x.rows(); begin += feedback.step()) {
      const Index count = std::min(feedback.step(), x.rows() - begin);
      feedback.correct(x, begin, count, carry);
      for (Index i = begin; i < begin + count; ++i) {
        const auto channel = x.row(i).array();
        const double low = channel.minCoeff(), range = channel.maxCoeff() - low;
        const double scale = range == 0 ? 1 : range / max_code;
        for (Index t = 0; t < c.group; ++t) {
          const double code = std::nearbyint((channel[t] - low) / scale);
          codes(first + t, i) = static_cast<std::uint8_t>(code);
          errors(i, t) = code * scale + low - channel[t];
        }
      }
      feedback.absorb(errors, begin, count, carry);
    }
  }
  return codes;
}

TEST(Oracle, EveryFormOfFeedbackReproducesEveryCode) {
  for (const fixtures::KeyCase& c : fixtures::load_key_cases()) {
    SCOPED_TRACE(c.name);
    using Feedback = ErrorFeedback<double>;
    const QuerySubspace subspace = fit_by_moment<double>(c.queries, c.rank, c.lambda);
    EXPECT_EQ(codes_with_exact_scales(c, Feedback(c.metric, c.step)), c.codes);
    EXPECT_EQ(codes_with_exact_scales(c, Feedback(subspace, c.step)), c.codes);
    EXPECT_EQ(codes_with_exact_scales(c, Feedback(subspace, c.step, Feedback::Form::low_rank)),
              c.codes);
    EXPECT_EQ(codes_with_exact_scales(c, Feedback(subspace, c.step, Feedback::Form::dense)),
              c.codes);
  }
}

// Below, scales and zeros are stored in single precision and the oracle's are not. That alone moves
// 8-bit codes that lie near a tie: a key of 1000 is rounded by up to 3e-5, a step may be 0.005, and
// feedback hands the difference on.

TEST(Oracle, KeysInDouble) {
  for (const fixtures::KeyCase& c : fixtures::load_key_cases()) {
    SCOPED_TRACE(c.name);
    const QuerySubspace subspace = fit_by_moment<double>(c.queries, c.rank, c.lambda);
    const Differences worst = compare_keys<double>(c, ErrorFeedback<double>(subspace, c.step));
    const double largest = c.keys.cwiseAbs().maxCoeff();
    EXPECT_LE(worst.codes, c.bits == 8 ? 2 : 0);
    EXPECT_LE(worst.scale, 3e-8 * largest);
    EXPECT_LE(worst.zero, 2e-7 * largest);
    EXPECT_LE(worst.dequantized, (worst.codes == 0 ? 2e-7 : 2e-6) * largest);
  }
}

TEST(Oracle, KeysInFloat) {
  for (const fixtures::KeyCase& c : fixtures::load_key_cases()) {
    SCOPED_TRACE(c.name);
    const QuerySubspace subspace = fit_by_moment<float>(c.queries, c.rank, c.lambda);
    const Differences worst = compare_keys<float>(c, ErrorFeedback<float>(subspace, c.step));
    const double largest = c.keys.cwiseAbs().maxCoeff();
    EXPECT_LE(static_cast<double>(worst.codes),
              (c.bits == 8 ? 0.04 : 0.0002) * static_cast<double>(c.codes.size()));
    EXPECT_LE(worst.scale, 3e-7 * largest);
    EXPECT_LE(worst.zero, (c.bits == 8 ? 4e-5 : 1e-6) * largest);
    if (worst.codes == 0) {
      EXPECT_LE(worst.dequantized, 1e-6 * largest);
    }
  }
}

TEST(Oracle, Values) {
  for (const fixtures::ValueCase& c : fixtures::load_value_cases()) {
    SCOPED_TRACE(c.name);
    const double largest = c.values.cwiseAbs().maxCoeff();
    for (const Differences& worst : {compare_values<float>(c), compare_values<double>(c)}) {
      EXPECT_EQ(worst.codes, 0);
      EXPECT_LE(worst.scale, 3e-8 * largest);
      EXPECT_EQ(worst.zero, 0);  // an input, which single precision holds
      EXPECT_LE(worst.dequantized, 2e-7 * largest);
    }
  }
}

}  // namespace
}  // namespace squat::testing
