// Values without a cache.
#pragma once

#include <squat/detail/config_checks.hpp>
#include <squat/detail/encoding/value_encoder.hpp>

namespace squat::detail {

/// Quantizes values of one kv head, a token at a time, into the slots of ValueRecordLayout records.
/// Stands alone, as KeyQuantizer does, in units of 1: with scales of 8 and 16 bits values that are
/// much smaller want to be multiplied first.
template <class Scalar>
class ValueQuantizer {
 public:
  using Real = ComputeType<Scalar>;

  ValueQuantizer(Index head_dim, int bits, const Config& config)
      : settings_(config), block_(head_dim, bits, settings_) {
    check(config);
    check(ModelShape{1, 1, 1, head_dim});
    require((bits >= 1 && bits <= 4) || bits == 8, "bits of values are ", bits,
            "; they must be 1, 2, 3, 4 or 8");
  }

  const ValueRecordLayout& block() const { return block_; }

  /// Writes `value` [head_dim] to slot `token` of `record`. Other slots stay as they are.
  void quantize(const Scalar* value, std::byte* record, Index token) const {
    quantize_heads(value, 1, token, [&](Index) { return record; });
  }

  /// quantize() for some heads, values [heads, head_dim]: the same codes as one by one, in less
  /// time. record_of(head) is the record of a head, a std::byte*.
  template <class RecordOf>
  void quantize_heads(const Scalar* values, Index heads, Index token,
                      const RecordOf& record_of) const {
    require(token >= 0 && token < block_.tokens(), "token is ", token, "; a block has ",
            block_.tokens());
    ValueEncoder<Scalar>(block_, settings_).encode(values, heads, token, [&](Index head) {
      return ValueRecord{record_of(head)};
    });
  }

 private:
  LayerSettings settings_;
  ValueRecordLayout block_;
};

}  // namespace squat::detail
