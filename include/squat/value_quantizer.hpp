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
    using Row = Eigen::Map<const Eigen::Matrix<Scalar, 1, Eigen::Dynamic>>;
    Real x[512];  // the largest head_dim
    Eigen::Map<Eigen::Matrix<Real, 1, Eigen::Dynamic>>(x, head_dim) =
        Row(value, head_dim).template cast<Real>();
    if (block_.is_rotated()) simd::rotate(x, head_dim);
    std::uint8_t codes[512];
    CodeGrid<Real> grids[512 / 32];  // groups have at least 32 channels
    encode(x, grids, codes);
    for (Index group = 0; group < block_.groups(); ++group)
      block_.template set_affine<Real>(record, token, group, grids[group]);
    simd::encode_kernels(bits_).put(codes, head_dim, block_.tile(record, token, 0),
                                    block_.tile_stride(), token % 8);
  }

 private:
  /// Codes of x [head_dim], and the grid of every group.
  void encode(const Real* x, CodeGrid<Real>* grids, std::uint8_t* codes) const {
    const bool symmetric = config_.value_grid == ValueGrid::symmetric;
    if constexpr (std::is_same_v<Real, float>) {
      if (symmetric || config_.backend != Backend::hqq) {
        const auto fit = symmetric ? simd::GridFit::symmetric : simd::grid_fit(config_.backend);
        simd::encode_kernels().groups(x, block_.head_dim(), block_.group_end(0),
                                      {bits_, config_.scale_bits, fit}, grids, codes);
        return;
      }
    }
    for (Index group = 0; group < block_.groups(); ++group) {
      const Index begin = block_.group_begin(group), count = block_.group_end(group) - begin;
      grids[group] =
          symmetric ? symmetric_codes(x + begin, count, bits_, config_.scale_bits, codes + begin)
                    : encode_group(x + begin, count, bits_, config_, Real(0), codes + begin);
    }
  }

  Config config_;
  int bits_;
  ValueBlock block_;
};

}  // namespace squat
