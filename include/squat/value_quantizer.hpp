// Values: per token, a group of channels to a scale.
#pragma once

#include <squat/simd/encode.hpp>
#include <squat/value_block.hpp>

namespace squat {

/// Quantizes values of one kv head, a token at a time, into the slots of ValueBlock records. Stands
/// alone, as KeyQuantizer does.
template <class Scalar>
class ValueQuantizer {
 public:
  using Real = ComputeType<Scalar>;

  ValueQuantizer(Index head_dim, int bits, const Config& config)
      : config_(config), bits_(bits), block_(head_dim, bits, config) {
    check(config);
    check(ModelShape{1, 1, 1, head_dim});
    require((bits >= 1 && bits <= 4) || bits == 8, "bits of values are ", bits,
            "; they must be 1, 2, 3, 4 or 8");
  }

  const ValueBlock& block() const { return block_; }

  /// Writes `value` [head_dim] to slot `token` of `record`. Other slots stay as they are.
  void quantize(const Scalar* value, std::byte* record, Index token) const {
    require(token >= 0 && token < block_.tokens(), "token is ", token, "; a block has ",
            block_.tokens());
    const Index head_dim = block_.head_dim();
    Real x[512];  // the largest head_dim
    for (Index channel = 0; channel < head_dim; ++channel)
      x[channel] = static_cast<Real>(value[channel]);
    if (block_.is_rotated()) rotate(x);
    std::uint8_t codes[512];
    for (Index group = 0; group < block_.groups(); ++group) {
      const Index begin = block_.group_begin(group), count = block_.group_end(group) - begin;
      block_.set_affine(record, token, group, encode(x + begin, count, codes + begin));
    }
    simd::encode_kernels(bits_).put(codes, head_dim, block_.tile(record, token, 0),
                                    block_.tile_stride(), token % 8);
  }

 private:
  void rotate(Real* x) const {
    if constexpr (std::is_same_v<Real, float>)
      simd::encode_kernels().rotate(x, block_.head_dim());
    else
      hadamard(x, block_.head_dim());
  }

  /// Codes of one group, and their affine as it is stored.
  Affine<Real> encode(const Real* x, Index count, std::uint8_t* codes) const {
    if (config_.value_grid == ValueGrid::symmetric) {
      if constexpr (std::is_same_v<Real, float>)
        return {simd::encode_kernels().symmetric(x, count, bits_, config_.scale_bits, codes), 0};
      else
        return {symmetric_codes(x, count, bits_, config_.scale_bits, codes), 0};
    }
    if constexpr (std::is_same_v<Real, float>)
      if (config_.backend != Backend::hqq)
        return simd::encode_kernels().group(
            x, count, {bits_, config_.scale_bits, config_.backend == Backend::unbiased}, codes);
    return encode_group(x, count, bits_, config_, Real(0), codes);
  }

  Config config_;
  int bits_;
  ValueBlock block_;
};

}  // namespace squat
