// Values: per token, a group of channels to a scale.
#pragma once

#include <squat/packed_block.hpp>
#include <squat/simd/encode.hpp>

namespace squat {

/// Quantizes values of one kv head, a token at a time, into the slots of ValueBlock records. Stands
/// alone, as KeyQuantizer does.
template <class Scalar, int Bits>
class ValueQuantizer {
 public:
  using Real = ComputeType<Scalar>;

  ValueQuantizer(Index head_dim, const Config& config) : config_(config), block_(head_dim, config) {
    check(config);
    check(ModelShape{1, 1, 1, head_dim});
  }

  const ValueBlock<Bits>& block() const { return block_; }

  /// Writes `value` [head_dim] to slot `token` of `record`. Other slots stay as they are.
  void quantize(const Scalar* value, std::byte* record, Index token) const {
    require(token >= 0 && token < block_.tokens(), "token is ", token, "; a block has ",
            block_.tokens());
    const Real levels = static_cast<Real>((1 << Bits) - 1);
    Real x[512];  // the largest head_dim
    for (Index channel = 0; channel < block_.head_dim(); ++channel)
      x[channel] = static_cast<Real>(value[channel]);
    for (Index group = 0; group < block_.groups(); ++group) {
      const Index begin = block_.group_begin(group), count = block_.group_end(group) - begin;
      if constexpr (std::is_same_v<Real, float>) {
        if (config_.backend == Backend::quanto) {
          const Index entry = group * block_.tokens() + token;
          simd::encode_kernels<Bits>().value(
              x + begin, count, config_.scale_bits, block_.table().scale(record, entry),
              block_.table().zero(record, entry), block_.tile(record, token, begin)->bytes,
              block_.tokens() / CodeTile<Bits>::depths * Index{sizeof(CodeTile<Bits>)},
              token % CodeTile<Bits>::depths);
          continue;
        }
      }
      const Affine<Real> affine = fit_affine(x + begin, count, levels, config_);
      const Real inverse = inverse_scale(affine);
      block_.set_affine(record, token, group, affine);
      for (Index channel = begin; channel < begin + count; ++channel) {
        const int code = static_cast<int>(nearest_code(x[channel], affine, inverse, levels));
        block_.tile(record, token, channel)
            ->set(channel % CodeTile<Bits>::lanes, token % CodeTile<Bits>::depths, code);
      }
    }
  }

 private:
  Config config_;
  ValueBlock<Bits> block_;
};

}  // namespace squat
