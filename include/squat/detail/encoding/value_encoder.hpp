// Codes of values: per token, a group of channels to a scale.
#pragma once

#include <squat/detail/encoding/simd/encode_dispatch.hpp>
#include <squat/detail/records/record_units.hpp>
#include <squat/detail/records/value_record_layout.hpp>

namespace squat::detail {

/// Where values of a head go, what they are less, and their units of 2^exponent and rotation there.
struct ValueRecord {
  std::byte* bytes;
  int exponent = 0;             ///< RecordUnits::values
  const float* mean = nullptr;  ///< [head_dim], or null
  Rotation rotation = Rotation::signs;
};

/// Writes values, a token at a time, into slots of the records of a layout.
template <class Scalar>
class ValueEncoder {
 public:
  using Real = ComputeType<Scalar>;

  /// Both outlive the encoder.
  ValueEncoder(const ValueRecordLayout& layout, const LayerSettings& settings)
      : layout_(layout), settings_(settings) {}

  /// Writes the values of some heads [heads, head_dim] of one token to slot `token` of their
  /// records: the same codes as one by one, in less time. record_of(head) is the record of a head.
  template <class RecordOf>
  void encode(const Scalar* values, Index heads, Index token, const RecordOf& record_of) const {
    const Index at_once = max_numbers / layout_.head_dim();
    for (Index first = 0; first < heads; first += at_once)
      encode_heads(values + first * layout_.head_dim(), std::min(at_once, heads - first), token,
                   [&](Index head) { return record_of(first + head); });
  }

 private:
  static constexpr Index max_numbers = max_value_dim;

  /// As many heads as max_numbers are enough for.
  template <class RecordOf>
  void encode_heads(const Scalar* values, Index heads, Index token,
                    const RecordOf& record_of) const {
    const Index head_dim = layout_.head_dim(), numbers = heads * head_dim;
    using Row = Eigen::Map<const Eigen::Matrix<Scalar, 1, Eigen::Dynamic>>;
    Real x[max_numbers], units[max_numbers / 8] = {};  // of a head_dim of 8
    Eigen::Map<Eigen::Matrix<Real, 1, Eigen::Dynamic>>(x, numbers) =
        Row(values, numbers).template cast<Real>();
    for (Index head = 0; head < heads; ++head) {
      const ValueRecord record = record_of(head);
      Real* const own = x + head * head_dim;
      for (Index c = 0; record.mean != nullptr && c < head_dim; ++c)
        own[c] -= static_cast<Real>(record.mean[c]);
      units[head] = unit_of<Real>(record.exponent);
      for (Index c = 0; record.exponent != 0 && c < head_dim; ++c) own[c] *= 1 / units[head];
      if (layout_.is_rotated()) simd::head_rotation<Real>(record.rotation, head_dim).apply(own);
    }
    std::uint8_t codes[max_numbers];
    CodeGrid<Real> grids[max_numbers / 8];  // of a head_dim of 8
    encode_groups(x, heads, units, grids, codes);
    const simd::EncodeKernels& kernels = simd::encode_kernels(layout_.bits());
    for (Index head = 0; head < heads; ++head) {
      std::byte* const record = record_of(head).bytes;
      for (Index group = 0; group < layout_.groups(); ++group)
        layout_.template set_affine<Real>(record, token, group,
                                          grids[head * layout_.groups() + group]);
      kernels.store_codes_at_depth(codes + head * head_dim, head_dim,
                                   layout_.tile(record, token, 0), layout_.tile_stride(),
                                   token % 8);
    }
  }

  /// Codes of x [heads, head_dim] in `units` [heads], and the grid of every group.
  void encode_groups(const Real* x, Index heads, const Real* units, CodeGrid<Real>* grids,
                     std::uint8_t* codes) const {
    const Index head_dim = layout_.head_dim(), length = layout_.group_end(0);
    GroupFormat format{layout_.bits(), settings_.scale_bits, settings_.value_fit};
    if constexpr (std::is_same_v<Real, float>) {
      if (format.fit != ScaleFit::half_quadratic) {
        // Where the last group of a head is a shorter one, heads go one by one.
        const Index n = head_dim % length == 0 ? heads * head_dim : head_dim;
        for (Index done = 0; done < heads * head_dim; done += n, grids += layout_.groups())
          simd::encode_kernels().groups(x + done, n, length, format, grids, codes + done);
        return;
      }
    }
    for (Index head = 0; head < heads; ++head)
      for (Index group = 0; group < layout_.groups(); ++group) {
        const Index begin = head * head_dim + layout_.group_begin(group);
        const Index count = layout_.group_end(group) - layout_.group_begin(group);
        format.unit = static_cast<double>(units[head]);
        *grids++ = encode_group(x + begin, count, format, Real(0), codes + begin);
      }
  }

  const ValueRecordLayout& layout_;
  const LayerSettings& settings_;
};

}  // namespace squat::detail
