// Keys without a cache.
#pragma once

#include <squat/detail/config_checks.hpp>
#include <squat/detail/encoding/key_encoder.hpp>

namespace squat::detail {

/// Quantizes blocks of Config::token_group_size keys of one kv head, or with KeyScales::per_token
/// any run of keys, into KeyRecordLayout records. Stands alone: a caller with a cache of their own
/// needs this, a buffer of block().bytes() (32-byte aligned) per block, and block().dequantize() to
/// read it. Its units are those of the layout: with scales of 8 and 16 bits keys that are much
/// smaller than 1 want to be multiplied first, or a layout with others (set_units()).
template <class Scalar>
class KeyQuantizer {
 public:
  using Real = ComputeType<Scalar>;
  using Records = typename KeyEncoder<Scalar>::Records;

  /// All channels have `bits` bits.
  KeyQuantizer(Index head_dim, int bits, const Config& config)
      : KeyQuantizer(checked(head_dim, bits, config), config) {}
  KeyQuantizer(KeyRecordLayout block, const Config& config)
      : settings_(config), block_(std::move(block)) {
    check(config);
  }

  const KeyRecordLayout& block() const { return block_; }

  /// As many blocks as quantize_blocks() takes.
  static constexpr Index max_blocks = KeyEncoder<Scalar>::max_blocks;

  /// Writes `keys` [tokens, head_dim] to slots of `record` from `slot` on, as KeyEncoder::encode()
  /// does: all token_group_size of them at once, or with scales per token any that are free. Fails,
  /// leaving `record` alone, on another shape, a mask of another length or a `feedback` of another
  /// head_dim.
  void quantize(MatrixView<Scalar> keys, const ErrorFeedback<Real>& feedback, std::byte* record,
                const Mask& mask = {}, Index slot = 0) const {
    const Index tokens = block_.tokens(), head_dim = block_.head_dim();
    const bool fits = block_.is_per_token() ? slot >= 0 && slot + keys.rows() <= tokens
                                            : slot == 0 && keys.rows() == tokens;
    require(fits && keys.cols() == head_dim, "keys are [", keys.rows(), ", ", keys.cols(),
            "] for slots from ", slot, " on; a block is [", tokens, ", ", head_dim, "]");
    check_call(keys, feedback, mask);
    encoder().encode(keys, feedback, {&record, 1}, mask, slot);
  }

  /// quantize() of 1 to max_blocks blocks, keys [records.count * tokens, head_dim], with scales per
  /// channel: the same codes as one by one, in less time.
  void quantize_blocks(const MatrixView<Scalar>& keys, const ErrorFeedback<Real>& feedback,
                       Records records, const Mask& mask = {}) const {
    require(!block_.is_per_token(), "key_scales is per_token; blocks want per_channel");
    require(records.count >= 1 && records.count <= max_blocks, "records are ", records.count,
            "; they must be 1 to ", max_blocks);
    require(keys.rows() == records.count * block_.tokens() && keys.cols() == block_.head_dim(),
            "keys are [", keys.rows(), ", ", keys.cols(), "]; ", records.count, " blocks are [",
            records.count * block_.tokens(), ", ", block_.head_dim(), "]");
    check_call(keys, feedback, mask);
    encoder().encode(keys, feedback, records, mask, 0);
  }

 private:
  KeyEncoder<Scalar> encoder() const { return {block_, settings_}; }

  static void check_call(const MatrixView<Scalar>& keys, const ErrorFeedback<Real>& feedback,
                         const Mask& mask) {
    require(mask.empty() || mask.size() == keys.rows(), "mask has ", mask.size(),
            " entries; keys have ", keys.rows(), " tokens");
    require(feedback.head_dim() == keys.cols(), "feedback is for head_dim ", feedback.head_dim(),
            "; keys have ", keys.cols());
  }

  static KeyRecordLayout checked(Index head_dim, int bits, const Config& config) {
    check(config);
    check(ModelShape{1, 1, 1, head_dim});
    require(bits >= 1 && bits <= 8, "bits of keys are ", bits, "; they must be 1 to 8");
    return KeyRecordLayout(head_dim, bits, config);
  }

  LayerSettings settings_;
  KeyRecordLayout block_;
};

}  // namespace squat::detail
