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
    quantize_heads(value, 1, token, [&](Index) { return record; });
  }

  /// quantize() for some heads, values [heads, head_dim]: the same codes as one by one, in less
  /// time. record_of(head) is the record of a head, a std::byte*.
  template <class RecordOf>
  void quantize_heads(const Scalar* values, Index heads, Index token,
                      const RecordOf& record_of) const {
    require(token >= 0 && token < block_.tokens(), "token is ", token, "; a block has ",
            block_.tokens());
    const Index at_once = max_numbers / block_.head_dim();
    for (Index first = 0; first < heads; first += at_once)
      encode_heads(values + first * block_.head_dim(), std::min(at_once, heads - first), token,
                   [&](Index head) { return record_of(first + head); });
  }

 private:
  static constexpr Index max_numbers = 512;  ///< the largest head_dim

  /// As many heads as max_numbers are enough for.
  template <class RecordOf>
  void encode_heads(const Scalar* values, Index heads, Index token,
                    const RecordOf& record_of) const {
    const Index head_dim = block_.head_dim(), numbers = heads * head_dim;
    using Row = Eigen::Map<const Eigen::Matrix<Scalar, 1, Eigen::Dynamic>>;
    Real x[max_numbers];
    Eigen::Map<Eigen::Matrix<Real, 1, Eigen::Dynamic>>(x, numbers) =
        Row(values, numbers).template cast<Real>();
    if (block_.is_rotated())
      for (Index first = 0; first < numbers; first += head_dim) simd::rotate(x + first, head_dim);
    std::uint8_t codes[max_numbers];
    CodeGrid<Real> grids[max_numbers / 8];  // of a head_dim of 8
    encode(x, heads, grids, codes);
    const simd::EncodeKernels& kernels = simd::encode_kernels(bits_);
    for (Index head = 0; head < heads; ++head) {
      std::byte* const record = record_of(head);
      for (Index group = 0; group < block_.groups(); ++group)
        block_.template set_affine<Real>(record, token, group,
                                         grids[head * block_.groups() + group]);
      kernels.put(codes + head * head_dim, head_dim, block_.tile(record, token, 0),
                  block_.tile_stride(), token % 8);
    }
  }

  /// Codes of x [heads, head_dim], and the grid of every group.
  void encode(const Real* x, Index heads, CodeGrid<Real>* grids, std::uint8_t* codes) const {
    const Index head_dim = block_.head_dim(), length = block_.group_end(0);
    const bool symmetric = config_.value_grid == ValueGrid::symmetric;
    if constexpr (std::is_same_v<Real, float>) {
      if (symmetric || config_.backend != Backend::hqq) {
        const auto fit = symmetric ? simd::GridFit::symmetric : simd::grid_fit(config_.backend);
        // Where the last group of a head is a shorter one, heads go one by one.
        const Index n = head_dim % length == 0 ? heads * head_dim : head_dim;
        for (Index done = 0; done < heads * head_dim; done += n, grids += block_.groups())
          simd::encode_kernels().groups(x + done, n, length, {bits_, config_.scale_bits, fit},
                                        grids, codes + done);
        return;
      }
    }
    for (Index head = 0; head < heads; ++head)
      for (Index group = 0; group < block_.groups(); ++group) {
        const Index begin = head * head_dim + block_.group_begin(group);
        const Index count = block_.group_end(group) - block_.group_begin(group);
        *grids++ = symmetric
                       ? symmetric_codes(x + begin, count, bits_, config_.scale_bits, codes + begin)
                       : encode_group(x + begin, count, bits_, config_, Real(0), codes + begin);
      }
  }

  Config config_;
  int bits_;
  ValueBlock block_;
};

}  // namespace squat
