// Codes of keys, with error feedback: blocks of tokens, or token by token.
#pragma once

#include <squat/detail/encoding/token_key_encoder.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// Writes keys of one kv head into records of a layout. With scales per channel keys come a block
/// at a time, up to max_blocks side by side: the same codes as one by one, in less time. With
/// scales per token any run of keys goes into free slots of a record.
template <class Scalar>
class KeyEncoder {
 public:
  using Real = ComputeType<Scalar>;
  static constexpr Index max_blocks = 4;

  /// Both outlive the encoder.
  KeyEncoder(const KeyRecordLayout& layout, const LayerSettings& settings)
      : layout_(layout), settings_(settings) {}

  /// Records of so many blocks of one head.
  struct Records {
    std::byte* const* first;
    Index count;

    std::byte* operator[](Index block) const { return first[block]; }
  };

  /// How many keys one call takes at most, where the first of them goes to `slot` of a record.
  Index tokens_at_once(Index slot) const {
    return layout_.is_per_token() ? layout_.tokens() - slot : max_blocks * layout_.tokens();
  }

  /// Writes `keys` [tokens, head_dim]: whole blocks of them, one to a record, or with scales per
  /// token any number into slots of one record from `slot` on. `feedback` has the channels in the
  /// layout's order, rotated where keys are. Tokens that `mask` leaves out widen no range: in a
  /// block their codes are those of a valid neighbour, alone those of a key of zeros. (The
  /// published code fills their slots with the first valid key: ranges, and codes of valid tokens,
  /// are the same.)
  void encode(const MatrixView<Scalar>& keys, const ErrorFeedback<Real>& feedback, Records records,
              const Mask& mask, Index slot) const {
    if (layout_.is_per_token())
      encode_tokens(keys, feedback, records[0], mask, slot);
    else
      encode_blocks(keys, feedback, records, mask);
  }

 private:
  using Codes = Matrix<std::uint8_t>;  // of eight channels, [8, tokens] of each block

  GroupFormat format_at(Index position) const {
    return {layout_.bits_at(position), settings_.scale_bits, settings_.key_fit,
            layout_.template unit<double>()};
  }

  void encode_blocks(const MatrixView<Scalar>& keys, const ErrorFeedback<Real>& feedback,
                     Records records, const Mask& mask) const {
    const Index head_dim = layout_.head_dim();
    Matrix<Real> x = working_copy(keys, mask, feedback.token_major());
    if (layout_.units().keys != 0) x *= unit_of<Real>(-layout_.units().keys);
    typename ErrorFeedback<Real>::Carry carry(feedback, keys.rows());
    Codes codes(8 * records.count, layout_.tokens());
    for (Index first = 0; first < head_dim; first += feedback.block()) {
      const Index count = std::min(feedback.block(), head_dim - first);
      feedback.correct(x, first, count, carry);
      if (feedback.token_major())
        encode_token_major(x, first, count, codes, records);
      else if (feedback.has_inner())
        encode_eight(x.row(first).data(), feedback.inner(first), feedback.step(), first, codes,
                     records);
      else
        encode_channels(x, first, count, codes, records);
      feedback.absorb(x, first, count, carry);
    }
  }

  /// A tile's worth of tokens at a time.
  void encode_tokens(const MatrixView<Scalar>& keys, const ErrorFeedback<Real>& feedback,
                     std::byte* record, const Mask& mask, Index slot) const {
    using Encoder = TokenKeyEncoder<Real>;
    const Index head_dim = layout_.head_dim();
    const Real to_units = unit_of<Real>(-layout_.units().keys);
    for (Index first = 0; first < keys.rows();) {
      const Index lane = (slot + first) % Encoder::max_tokens;
      const Index count = std::min(Encoder::max_tokens - lane, keys.rows() - first);
      Encoder encoder(layout_, settings_, feedback, count);
      for (Index token = 0; token < count; ++token) {
        if (!mask[first + token]) continue;
        Real key[max_head_dim];
        for (Index c = 0; c < head_dim; ++c)
          key[c] = static_cast<Real>(keys(first + token, c)) * to_units;
        if (layout_.is_rotated())
          simd::head_rotation<Real>(layout_.rotation(), head_dim).apply(key);
        encoder.set_key(token, key);
      }
      const Matrix<std::uint8_t>& codes = encoder.encode(record, slot + first);
      if (count == Encoder::max_tokens)
        for (Index position = 0; position < head_dim; position += 8)
          pack(codes.row(position).data(), count, slot + first, position, record);
      else
        for (Index token = 0; token < count; ++token)
          layout_.set_codes(record, slot + first + token, codes.data() + token, codes.cols());
      first += count;
    }
  }

  /// Keys as [tokens, head_dim] or [head_dim, tokens], channels in the block's order, masked tokens
  /// replaced by the valid token before them, or else the first valid one.
  Matrix<Real> working_copy(const MatrixView<Scalar>& keys, const Mask& mask,
                            bool token_major) const {
    if constexpr (std::is_same_v<Scalar, float>) {
      if (!token_major && (mask.empty() || is_full(mask))) {
        Matrix<float> x(keys.cols(), keys.rows());
        float* row[max_head_dim];  // of a channel
        for (Index p = 0; p < keys.cols(); ++p) row[layout_.channel_at(p)] = x.row(p).data();
        simd::matrix_kernels().transpose(keys.data(), keys.outerStride(), keys.rows(), keys.cols(),
                                         row);
        return x;
      }
    }
    Matrix<Real> x(token_major ? keys.rows() : keys.cols(),
                   token_major ? keys.cols() : keys.rows());
    for (Index first = 0; first < keys.rows(); first += layout_.tokens()) {
      const Index end = first + layout_.tokens();
      Index stand_in = first;
      while (stand_in < end - 1 && !mask[stand_in]) ++stand_in;
      for (Index token = first; token < end; ++token) {
        if (mask[token]) stand_in = token;
        const Scalar* key = keys.row(stand_in).data();
        for (Index p = 0; p < keys.cols(); ++p)
          (token_major ? x(token, p) : x(p, token)) = static_cast<Real>(key[layout_.channel_at(p)]);
      }
    }
    return x;
  }

  static bool is_full(const Mask& mask) {
    for (Index token = 0; token < mask.size(); ++token)
      if (!mask[token]) return false;
    return true;
  }

  /// Codes of the channels at [first, first + count), x [tokens, head_dim]; their keys in x become
  /// errors, stored - corrected.
  void encode_token_major(Matrix<Real>& x, Index first, Index count, Codes& codes,
                          Records records) const {
    for (const KeyRecordLayout::Run& run : layout_.runs()) {
      const Index begin = std::max(first, run.first);
      const Index end = std::min(first + count, run.first + run.count);
      for (Index position = begin; position < end; position += 8) {
        if constexpr (std::is_same_v<Real, float>) {
          if (settings_.key_fit == ScaleFit::min_max && settings_.scale_bits != 8 &&
              run.planes.count == 1) {
            for (Index block = 0; block < records.count; ++block) {
              std::byte* const record = records[block];
              simd::encode_kernels(run.bits).encode_min_max(
                  x.row(block * layout_.tokens()).data() + position, x.cols(), layout_.tokens(),
                  settings_.scale_bits, layout_.table().scale(record, position),
                  layout_.table().zero(record, position), layout_.tile(record, run, 0, 0, position),
                  KeyRecordLayout::tile_stride(run, 0));
            }
            continue;
          }
        }
        Matrix<Real> channels = x.middleCols(position, 8).transpose();
        encode_eight(channels.data(), nullptr, 8, position, codes, records);
        x.middleCols(position, 8) = channels.transpose();
      }
    }
  }

  /// Codes of the channels at [first, first + count), x [head_dim, tokens]. Channels come in order;
  /// the codes of eight channels are packed with its last one.
  void encode_channels(Matrix<Real>& x, Index first, Index count, Codes& codes,
                       Records records) const {
    for (Index position = first; position < first + count; ++position)
      for (Index block = 0; block < records.count; ++block) {
        encode_channel(x.row(position).data() + block * layout_.tokens(),
                       codes.row(8 * block + position % 8).data(), records[block], position);
        if (position % 8 == 7)
          pack(codes.row(8 * block).data(), layout_.tokens(), 0, position - 7, records[block]);
      }
  }

  /// Codes of eight channels x [8][blocks][tokens] with feedback from each `step` of them to those
  /// behind; their keys become errors, stored - x as it came.
  void encode_eight(Real* x, const Real* inner, Index step, Index first, Codes& codes,
                    Records records) const {
    const Index tokens = layout_.tokens(), stride = records.count * tokens;
    static constexpr Real none[64] = {};
    if (inner == nullptr) inner = none;
    if constexpr (std::is_same_v<Real, float>) {
      if (settings_.key_fit != ScaleFit::half_quadratic) {
        Affine<float> affine[8 * max_blocks];
        simd::encode_kernels().encode_eight_channels(x, records.count, tokens, inner, step,
                                                     format_at(first), expected_from(first), affine,
                                                     codes.data());
        for (Index block = 0; block < records.count; ++block) {
          store_eight(affine + 8 * block, first, records[block]);
          pack(codes.row(8 * block).data(), tokens, 0, first, records[block]);
        }
        return;
      }
    }
    for (Index block = 0; block < records.count; ++block) {
      Real* const before = x + block * tokens;  // channel 0, and what follows it
      for (Index k = 0; k < 8; ++k) {
        Real* const own = before + k * stride;
        std::uint8_t* const own_codes = codes.row(8 * block + k).data();
        Real moved[128] = {};  // the largest block
        std::copy_n(own, tokens, moved);
        for (Index i = 0; i < k / step * step; ++i)
          add_multiple(inner[8 * k + i], before + i * stride, tokens, moved);
        const Affine<Real> affine = encode_channel(moved, own_codes, records[block], first + k);
        for (Index t = 0; t < tokens; ++t)
          own[t] = rounded(affine.scale * static_cast<Real>(own_codes[t])) + affine.zero - own[t];
      }
      pack(codes.row(8 * block).data(), tokens, 0, first, records[block]);
    }
  }

  /// Scales and zero points of the eight channels from `first` on.
  void store_eight(const Affine<float>* affine, Index first, std::byte* record) const {
    if (settings_.scale_bits == 8) {
      simd::encode_kernels().store8(affine, static_cast<float>((1 << layout_.bits_at(first)) - 1),
                                    expected_from(first), layout_.table().scale(record, first),
                                    layout_.table().zero(record, first));
      return;
    }
    for (Index k = 0; k < 8; ++k) layout_.set_affine(record, first + k, affine[k]);
  }

  /// Where the midpoints of channels from `first` on are expected, or null where at 0.
  const float* expected_from(Index first) const {
    return layout_.expected() == nullptr ? nullptr : layout_.expected() + first;
  }

  /// Codes [tokens] of the channel at `position`; `x` [tokens] becomes its error, stored - x.
  Affine<Real> encode_channel(Real* x, std::uint8_t* codes, std::byte* record,
                              Index position) const {
    const Affine<Real> affine = encode_group(x, layout_.tokens(), format_at(position),
                                             static_cast<Real>(layout_.expected(position)), codes);
    layout_.set_affine(record, position, affine);
    for (Index token = 0; token < layout_.tokens(); ++token)
      x[token] = rounded(affine.scale * static_cast<Real>(codes[token])) + affine.zero - x[token];
    return affine;
  }

  /// Packs codes [8][tokens] of the eight channels at `position`, for slots from `slot` on.
  void pack(const std::uint8_t* codes, Index tokens, Index slot, Index position,
            std::byte* record) const {
    const KeyRecordLayout::Run& run = layout_.run_of(position);
    for (int plane = 0; plane < run.planes.count; ++plane)
      simd::encode_kernels(run.planes.bits[plane])
          .pack(codes, run.planes.shift[plane], tokens,
                layout_.tile(record, run, plane, slot, position),
                KeyRecordLayout::tile_stride(run, plane));
  }

  const KeyRecordLayout& layout_;
  const LayerSettings& settings_;
};

}  // namespace squat::detail
