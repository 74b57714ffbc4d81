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

    Matrix<Real> x = channel_major(keys, mask);
    typename ErrorFeedback<Real>::Carry carry(feedback, tokens);
    constexpr Index depths = CodeTile<Bits>::depths, lanes = CodeTile<Bits>::lanes;
    Matrix<std::uint8_t> codes(depths, tokens);
    for (Index first = 0; first < head_dim; first += feedback.step()) {
      const Index count = std::min(feedback.step(), head_dim - first);
      feedback.correct(x, first, count, carry);
      for (Index channel = first; channel < first + count; ++channel) {
        encode_channel(x.row(channel).data(), codes.row(channel % depths).data(), record, channel);
        if (channel % depths != depths - 1) continue;
        for (Index token = 0; token < tokens; token += lanes) {
          std::uint8_t tile_codes[depths][lanes];
          for (Index depth = 0; depth < depths; ++depth)
            std::copy_n(codes.row(depth).data() + token, lanes, tile_codes[depth]);
          block_.tile(record, token, channel)->pack(tile_codes);
        }
      }
      feedback.absorb(x, first, count, carry);
    }
  }

 private:
  /// Keys as [head_dim, tokens], masked tokens replaced by the valid token before them, or else the
  /// first valid one.
  Matrix<Real> channel_major(const MatrixView<Scalar>& keys, const Mask& mask) const {
    Index stand_in = 0;
    while (stand_in < keys.rows() - 1 && !mask[stand_in]) ++stand_in;
    Matrix<Real> x(keys.cols(), keys.rows());
    for (Index token = 0; token < keys.rows(); ++token) {
      if (mask[token]) stand_in = token;
      x.col(token) = keys.row(stand_in).transpose().template cast<Real>();
    }
    return x;
  }

  /// Codes of one channel; `x` [tokens] becomes its error, stored - x.
  void encode_channel(Real* x, std::uint8_t* codes, std::byte* record, Index channel) const {
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
