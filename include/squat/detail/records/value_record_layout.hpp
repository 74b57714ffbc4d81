// The packed record of values.
#pragma once

#include <squat/detail/math/rotation.hpp>
#include <squat/detail/records/affine_table.hpp>
#include <squat/detail/records/code_tile.hpp>
#include <squat/detail/records/token_groups.hpp>

namespace squat::detail {

/// Values of Config::token_group_size consecutive tokens of one kv head; they arrive one by one.
/// Lanes are channels, depths are tokens; a head_dim that is no multiple of 16 leaves the last 8
/// lanes unused:
///
///     scale[groups][tokens], zero[groups][tokens]    per token and channel group: AffineTable
///     padding to 16 bytes
///     CodeTile<bits> tile[ceil(head_dim / 16)][tokens / 8]   channel 16 a + lane,
///                                                            token 8 b + depth
///     padding to 32 bytes
///
/// Zeros are there with ValueGrid::min_max. With Config::rotate_values codes are those of the
/// rotated value.
class ValueRecordLayout : public TokenGroups {
 public:
  ValueRecordLayout(Index head_dim, int bits, const LayerSettings& settings)
      : TokenGroups(head_dim, settings.value_group_size, settings),
        bits_(bits),
        is_rotated_(settings.rotates_values),
        affine_(entries(), settings.scale_bits, settings.value_fit != ScaleFit::symmetric) {}

  int bits() const { return bits_; }
  bool is_rotated() const { return is_rotated_; }
  Index code_offset() const { return round_up(affine_.bytes(), 16); }  ///< from a record's begin
  Index code_bytes() const { return round_up(head_dim(), 16) * tokens() * bits_ / 8; }
  Index bytes() const { return round_up(code_offset() + code_bytes(), record_alignment); }
  const AffineTable& table() const { return affine_; }

  std::uint8_t* tile(std::byte* record, Index token, Index channel) const {
    return reinterpret_cast<std::uint8_t*>(record) + tile_offset(token, channel);
  }
  const std::uint8_t* tile(const std::byte* record, Index token, Index channel) const {
    return reinterpret_cast<const std::uint8_t*>(record) + tile_offset(token, channel);
  }
  /// From the tile of a channel to that of the channel 16 later.
  Index tile_stride() const { return 2 * tokens() * bits_; }

  /// The code of `token` and `channel`.
  int code(const std::byte* record, Index token, Index channel) const {
    return with_bits(bits_, [&](auto bits) {
      return reinterpret_cast<const CodeTile<bits>*>(tile(record, token, channel))
          ->get(channel % 16, token % 8);
    });
  }

  template <class Real>
  Affine<Real> affine(const std::byte* record, Index token, Index group) const {
    return affine_.get<Real>(record, entry(token, group), max_code<Real>(), Real(0));
  }
  template <class Real>
  void set_affine(std::byte* record, Index token, Index group, const Affine<Real>& affine) const {
    affine_.set(record, entry(token, group), affine, max_code<Real>(), Real(0));
  }

  /// Dequantizes tokens [0, tokens) of a record in units of `unit` into out[tokens][head_dim],
  /// rotated back.
  template <class Real>
  void dequantize(const std::byte* record, Index tokens, Real* out, Real unit = 1,
                  Rotation rotation = Rotation::signs) const {
    with_bits(bits_, [&](auto bits) {
      for (Index t = 0; t < tokens; ++t) {
        Real* row = out + t * head_dim();
        for (Index group = 0; group < groups(); ++group) {
          const auto [scale, zero] = affine<Real>(record, t, group);
          for (Index c = group_begin(group); c < group_end(group); ++c) {
            const auto* codes = reinterpret_cast<const CodeTile<bits>*>(tile(record, t, c));
            row[c] = scale * unit * static_cast<Real>(codes->get(c % 16, t % 8)) + zero * unit;
          }
        }
        if (is_rotated_) rotate_back(row, head_dim(), rotation);
      }
    });
  }

 private:
  template <class Real>
  Real max_code() const {
    return static_cast<Real>((1 << bits_) - 1);
  }
  Index tile_offset(Index token, Index channel) const {
    return code_offset() + (channel / 16 * (tokens() / 8) + token / 8) * 16 * bits_;
  }

  int bits_;
  bool is_rotated_;
  AffineTable affine_;
};

}  // namespace squat::detail
