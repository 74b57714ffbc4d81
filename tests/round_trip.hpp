// Keys and values through their quantizers and back.
#pragma once

#include <cstddef>
#include <squat/detail/encoding/key_quantizer.hpp>
#include <squat/detail/encoding/value_quantizer.hpp>
#include <vector>

namespace squat::testing {

using namespace detail;

/// Memory for one packed record.
class Record {
 public:
  explicit Record(Index bytes) : units_(static_cast<std::size_t>((bytes + 31) / 32)) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(units_.data()); }
  const std::byte* data() const { return reinterpret_cast<const std::byte*>(units_.data()); }
  Index size() const { return static_cast<Index>(32 * units_.size()); }

 private:
  struct alignas(32) Unit {
    std::byte bytes[32] = {};
  };
  std::vector<Unit> units_;
};

/// Settings under which nothing is lost but what single precision of scales and zeros costs.
inline Config single_precision_scales(Index token_group_size) {
  Config config;
  config.token_group_size = token_group_size;
  config.residual_length = token_group_size;
  config.scale_bits = 32;
  return config;
}

/// Quantizes `keys` [tokens, head_dim] a block at a time, calls visit(block, record, first token)
/// after each, and returns them dequantized. tokens is a multiple of Config::token_group_size.
template <class Scalar, int Bits, class Visit>
Matrix<ComputeType<Scalar>> round_trip_keys(const Matrix<Scalar>& keys,
                                            const ErrorFeedback<ComputeType<Scalar>>& feedback,
                                            const Config& config, Visit&& visit) {
  const KeyQuantizer<Scalar> quantizer(keys.cols(), Bits, config);
  const KeyRecordLayout& block = quantizer.block();
  Record record(block.bytes());
  Matrix<ComputeType<Scalar>> decoded(keys.rows(), keys.cols());
  for (Index first = 0; first < keys.rows(); first += block.tokens()) {
    quantizer.quantize(keys.middleRows(first, block.tokens()), feedback, record.data());
    block.dequantize(record.data(), block.tokens(), decoded.row(first).data());
    visit(block, record.data(), first);
  }
  return decoded;
}

template <class Scalar, int Bits>
Matrix<ComputeType<Scalar>> round_trip_keys(const Matrix<Scalar>& keys,
                                            const ErrorFeedback<ComputeType<Scalar>>& feedback,
                                            const Config& config) {
  return round_trip_keys<Scalar, Bits>(keys, feedback, config, [](auto&&...) {});
}

}  // namespace squat::testing
