// Keys: per channel, a block of tokens at a time, with error feedback.
#pragma once

#include <squat/error_feedback.hpp>
#include <squat/packed_block.hpp>

namespace squat {

/// Quantizes blocks of Config::token_group_size keys of one kv head into KeyBlock records. Stands
/// alone: a caller with a cache of their own needs this, a buffer of block().bytes() (32-byte
/// aligned) per block, and block().decode() to read it.
template <class Scalar, int Bits>
class KeyQuantizer {
 public:
  using Real = ComputeType<Scalar>;

  KeyQuantizer(Index head_dim, const Config& config) : config_(config), block_(head_dim, config) {
    check(config);
    check(ModelShape{1, 1, 1, head_dim});
  }

  const KeyBlock<Bits>& block() const { return block_; }

  /// Writes `keys` [token_group_size, head_dim] to `record`. Tokens that `mask` leaves out widen no
  /// range: their codes are those of a valid neighbour. Fails, leaving `record` alone, on another
  /// shape, a mask of another length or a `feedback` of another head_dim.
  void quantize(MatrixView<Scalar> keys, const ErrorFeedback<Real>& feedback, std::byte* record,
                const Mask& mask = {}) const {
    const Index tokens = block_.tokens(), head_dim = block_.head_dim();
    require(keys.rows() == tokens && keys.cols() == head_dim, "keys are [", keys.rows(), ", ",
            keys.cols(), "]; a block is [", tokens, ", ", head_dim, "]");
    require(mask.empty() || mask.size() == tokens, "mask has ", mask.size(),
            " entries; a block has ", tokens, " tokens");
    require(feedback.head_dim() == head_dim, "feedback is for head_dim ", feedback.head_dim(),
            "; keys have ", head_dim);

    Matrix<Real> x = working_copy(keys, mask, feedback.token_major());
    typename ErrorFeedback<Real>::Carry carry(feedback, tokens);
    Codes codes(depths, tokens);
    for (Index first = 0; first < head_dim; first += feedback.step()) {
      const Index count = std::min(feedback.step(), head_dim - first);
      feedback.correct(x, first, count, carry);
      if (feedback.token_major())
        encode_token_major(x, first, count, codes, record);
      else
        encode_channel_major(x, first, count, codes, record);
      feedback.absorb(x, first, count, carry);
    }
  }

 private:
  using Codes = Matrix<std::uint8_t>;  // of an octet of channels [8, tokens]

  static constexpr Index depths = CodeTile<Bits>::depths;
  static constexpr Index lanes = CodeTile<Bits>::lanes;

  /// Keys as [tokens, head_dim] or [head_dim, tokens], masked tokens replaced by the valid token
  /// before them, or else the first valid one.
  static Matrix<Real> working_copy(const MatrixView<Scalar>& keys, const Mask& mask,
                                   bool token_major) {
    Index stand_in = 0;
    while (stand_in < keys.rows() - 1 && !mask[stand_in]) ++stand_in;
    Matrix<Real> x(token_major ? keys.rows() : keys.cols(),
                   token_major ? keys.cols() : keys.rows());
    for (Index token = 0; token < keys.rows(); ++token) {
      if (mask[token]) stand_in = token;
      const Scalar* key = keys.row(stand_in).data();
      if (token_major)
        for (Index c = 0; c < keys.cols(); ++c) x(token, c) = static_cast<Real>(key[c]);
      else
        for (Index c = 0; c < keys.cols(); ++c) x(c, token) = static_cast<Real>(key[c]);
    }
    return x;
  }

  /// Codes of channels [first, first + count); their keys in x become errors, stored - corrected.
  void encode_token_major(Matrix<Real>& x, Index first, Index count, Codes& codes,
                          std::byte* record) const {
    for (Index channel = first; channel < first + count; channel += depths) {
      if constexpr (std::is_same_v<Real, float>) {
        if (config_.backend == Backend::quanto) {
          simd::encode_kernels<Bits>().keys(
              x.data() + channel, x.cols(), x.rows(), config_.scale_bits,
              block_.table().scale(record, channel), block_.table().zero(record, channel),
              block_.tile(record, 0, channel)->bytes,
              x.cols() / depths * Index{sizeof(CodeTile<Bits>)});
          continue;
        }
      }
      Matrix<Real> channels = x.middleCols(channel, depths).transpose();
      encode_channel_major(channels, 0, depths, codes, record, channel);
      x.middleCols(channel, depths) = channels.transpose();
    }
  }

  /// The same for x [head_dim, tokens]; row `first` of x is channel first + shift. Channels come in
  /// order; the codes of an octet are packed with its last one.
  void encode_channel_major(Matrix<Real>& x, Index first, Index count, Codes& codes,
                            std::byte* record, Index shift = 0) const {
    for (Index row = first; row < first + count; ++row) {
      const Index channel = row + shift;
      encode_channel(x.row(row).data(), codes.row(channel % depths).data(), record, channel);
      if (channel % depths == depths - 1)
        simd::encode_kernels<Bits>().pack(
            codes.data(), x.cols(), block_.tile(record, 0, channel)->bytes,
            block_.head_dim() / depths * Index{sizeof(CodeTile<Bits>)});
    }
  }

  /// Codes [tokens] of one channel; `x` [tokens] becomes its error, stored - x.
  void encode_channel(Real* x, std::uint8_t* codes, std::byte* record, Index channel) const {
    if constexpr (std::is_same_v<Real, float>) {
      if (config_.backend == Backend::quanto) {
        simd::encode_kernels<Bits>().channel(x, block_.tokens(), config_.scale_bits,
                                             block_.table().scale(record, channel),
                                             block_.table().zero(record, channel), codes);
        return;
      }
    }
    const Real levels = static_cast<Real>((1 << Bits) - 1);
    const Affine<Real> affine = fit_affine(x, block_.tokens(), levels, config_);
    const Real inverse = inverse_scale(affine);
    block_.set_affine(record, channel, affine);
    for (Index token = 0; token < block_.tokens(); ++token) {
      const Real code = nearest_code(x[token], affine, inverse, levels);
      codes[token] = static_cast<std::uint8_t>(code);
      x[token] = affine.scale * code + affine.zero - x[token];
    }
  }

  Config config_;
  KeyBlock<Bits> block_;
};

}  // namespace squat
