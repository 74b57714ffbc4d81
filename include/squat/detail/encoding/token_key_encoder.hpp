// Codes of keys whose scales belong to a token.
#pragma once

#include <squat/detail/encoding/simd/encode_dispatch.hpp>
#include <squat/detail/plan/error_feedback.hpp>
#include <squat/detail/records/key_record_layout.hpp>

namespace squat::detail {

/// Quantizes a few keys of one kv head with KeyScales::per_token. A group's scale is fixed when its
/// first channel's turn comes, from where the feedback would take its channels if no more errors
/// were made; its codes follow one feedback step at a time. What one token becomes does not depend
/// on the others.
template <class Real>
class TokenKeyEncoder {
 public:
  static constexpr Index max_tokens = 16;  ///< the lanes of a tile

  /// For `tokens` keys, of which set_key() takes each. Arguments outlive the encoder.
  TokenKeyEncoder(const KeyRecordLayout& layout, const LayerSettings& settings,
                  const ErrorFeedback<Real>& feedback, Index tokens)
      : layout_(layout),
        settings_(settings),
        feedback_(feedback),
        tokens_(tokens),
        stride_(round_up(tokens, 8)),
        keys_(feedback.token_major() ? Matrix<Real>::Zero(stride_, layout.head_dim())
                                     : Matrix<Real>::Zero(layout.head_dim(), stride_)),
        codes_(layout.head_dim(), stride_),
        carry_(feedback, stride_) {
    for (Matrix<Real>* part : {&scale_, &zero_, &shift_, &inverse_, &origin_})
      part->setZero(layout.groups().groups(), stride_);
  }

  /// `key` [head_dim] in the layout's units, rotated where the block's keys are.
  void set_key(Index token, const Real* key) {
    for (Index channel = 0; channel < layout_.head_dim(); ++channel)
      (feedback_.token_major() ? keys_(token, channel) : keys_(channel, token)) = key[channel];
  }

  /// Writes scales and zero points of the keys to slots from `slot` on. Returns their codes
  /// [head_dim, stride]: a row is a channel, the first `tokens` of it count.
  const Matrix<std::uint8_t>& encode(std::byte* record, Index slot) {
    const Index head_dim = layout_.head_dim();
    for (Index first = 0; first < head_dim; first += feedback_.block()) {
      const Index count = std::min(feedback_.block(), head_dim - first);
      fit_groups(first, first + count, record, slot);
      feedback_.correct(keys_, first, count, carry_);
      if (feedback_.token_major()) {
        Matrix<Real> channels = keys_.middleCols(first, count).transpose();
        encode_channels(channels, nullptr, first);
        keys_.middleCols(first, count) = channels.transpose();
      } else {
        Matrix<Real> channels = keys_.middleRows(first, count);
        encode_channels(channels, feedback_.has_inner() ? feedback_.inner(first) : nullptr, first);
        keys_.middleRows(first, count) = channels;
      }
      feedback_.absorb(keys_, first, count, carry_);
    }
    return codes_;
  }

 private:
  /// Fixes the scales of the groups that begin in channels [first, last).
  void fit_groups(Index first, Index last, std::byte* record, Index slot) {
    const TokenGroups& groups = layout_.groups();
    const Index group = groups.group_of(first + groups.group_end(0) - 1);
    const Index end_group = groups.group_of(last - 1) + 1;
    if (group == end_group) return;
    const Index end = groups.group_end(end_group - 1);
    Matrix<Real> ahead = keys_;
    if (first > 0) {
      typename ErrorFeedback<Real>::Carry carry = carry_;
      for (Index c = first; c < end; c += feedback_.block())
        feedback_.correct(ahead, c, std::min(feedback_.block(), layout_.head_dim() - c), carry);
    }
    const Index begin = groups.group_begin(group);
    const Matrix<Real> x = feedback_.token_major()
                               ? Matrix<Real>(ahead.middleCols(begin, end - begin))
                               : Matrix<Real>(ahead.middleRows(begin, end - begin).transpose());
    for (Index token = 0; token < tokens_; ++token) {
      CodeGrid<Real> grids[max_head_dim / 32];  // groups have at least 32 channels
      fit(x.row(token).data(), x.cols(), grids);
      for (Index g = group; g < end_group; ++g) {
        const CodeGrid<Real>& grid = grids[g - group];
        layout_.template set_affine<Real>(record, slot + token, g, grid);
        scale_(g, token) = grid.scale;
        zero_(g, token) = grid.zero;
        shift_(g, token) = grid.shift;
        inverse_(g, token) = grid.inverse;
        origin_(g, token) = grid.origin;
      }
    }
  }

  /// Grids of the groups of x[0..count).
  void fit(const Real* x, Index count, CodeGrid<Real>* grids) const {
    std::uint8_t codes[max_head_dim];  // feedback makes others of them
    const GroupFormat format{layout_.bits_at(0), settings_.scale_bits, settings_.key_fit,
                             layout_.template unit<double>()};
    const Index length = layout_.groups().group_end(0);
    if constexpr (std::is_same_v<Real, float>) {
      if (format.fit != ScaleFit::half_quadratic)
        return simd::encode_kernels().groups(x, count, length, format, grids, codes);
    }
    for (Index i = 0; i < count; i += length)
      *grids++ = encode_group(x + i, std::min(length, count - i), format, Real(0), codes);
  }

  /// Codes of channels x [count, stride] from `first` on, with feedback from one to the next where
  /// there is `inner`; x becomes error, stored - x, x as it came.
  void encode_channels(Matrix<Real>& x, const Real* inner, Index first) {
    const Real max_code = static_cast<Real>((1 << layout_.bits_at(0)) - 1);
    Real moved[max_tokens];
    for (Index k = 0; k < x.rows(); ++k) {
      Real* const own = x.row(k).data();
      std::copy_n(own, stride_, moved);
      for (Index i = 0; inner != nullptr && i < k; ++i)
        add_multiple(inner[8 * k + i], x.row(i).data(), stride_, moved);
      const Index group = layout_.groups().group_of(first + k);
      const Real *scale = scale_.row(group).data(), *zero = zero_.row(group).data();
      const Real *shift = shift_.row(group).data(), *inverse = inverse_.row(group).data();
      const Real* origin = origin_.row(group).data();
      std::uint8_t* codes = codes_.row(first + k).data();
      for (Index t = 0; t < stride_; ++t) {
        const Real code = grid_code(moved[t] - shift[t], inverse[t], origin[t], max_code);
        codes[t] = static_cast<std::uint8_t>(code);
        own[t] = rounded(scale[t] * code) + zero[t] - own[t];
      }
    }
  }

  const KeyRecordLayout& layout_;
  const LayerSettings& settings_;
  const ErrorFeedback<Real>& feedback_;
  Index tokens_;
  Index stride_;                                          // tokens_ rounded up
  Matrix<Real> keys_;                                     // lying as the feedback wants them
  Matrix<std::uint8_t> codes_;                            // [head_dim, stride]
  Matrix<Real> scale_, zero_, shift_, inverse_, origin_;  // [groups, stride], of CodeGrid
  typename ErrorFeedback<Real>::Carry carry_;
};

}  // namespace squat::detail
