// The packed records: what a block of tokens of one kv head looks like in memory.
#pragma once

#include <cstring>
#include <squat/affine.hpp>
#include <squat/code_tile.hpp>

namespace squat {

/// A table of scales and zero points inside a record: all scales, then all zeros, in half or single
/// precision (Config::scale_bits).
class AffineTable {
 public:
  AffineTable(Index entries, int scale_bits) : entries_(entries), scale_bits_(scale_bits) {}

  Index entries() const { return entries_; }
  std::byte* scale(std::byte* table, Index entry) const {
    return table + entry * (scale_bits_ / 8);
  }
  std::byte* zero(std::byte* table, Index entry) const { return scale(table, entries_ + entry); }
  int scale_bits() const { return scale_bits_; }
  Index bytes() const { return 2 * entries_ * (scale_bits_ / 8); }

  template <class Real>
  Affine<Real> get(const std::byte* table, Index entry) const {
    return {load<Real>(table, entry), load<Real>(table, entries_ + entry)};
  }

  /// `affine` must hold values as as_stored() gives them, so that nothing is lost here.
  template <class Real>
  void set(std::byte* table, Index entry, const Affine<Real>& affine) const {
    store_affine(static_cast<float>(affine.scale), scale_bits_, scale(table, entry));
    store_affine(static_cast<float>(affine.zero), scale_bits_, zero(table, entry));
  }

 private:
  template <class Real>
  Real load(const std::byte* table, Index at) const {
    if (scale_bits_ == 16) {
      Eigen::half value;
      std::memcpy(&value, table + 2 * at, 2);
      return static_cast<Real>(static_cast<float>(value));
    }
    float value;
    std::memcpy(&value, table + 4 * at, 4);
    return static_cast<Real>(value);
  }

  Index entries_;
  int scale_bits_;
};

/// Records begin on this boundary, and so do the tiles in them.
inline constexpr Index record_alignment = 32;

/// Keys of `tokens` = Config::token_group_size consecutive tokens of one kv head. Lanes are tokens,
/// depths are channels:
///
///     scale[head_dim], zero[head_dim]                  per channel, for all tokens of the block
///     CodeTile<Bits> tile[tokens / 16][head_dim / 8]   token 16 a + lane, channel 8 b + depth
///     padding to 32 bytes
///
/// in the order in which attention reads them.
template <int Bits>
class KeyBlock {
 public:
  using Tile = CodeTile<Bits>;

  KeyBlock(Index head_dim, const Config& config)
      : head_dim_(head_dim),
        tokens_(config.token_group_size),
        affine_(head_dim, config.scale_bits) {}

  Index head_dim() const { return head_dim_; }
  Index tokens() const { return tokens_; }
  Index code_bytes() const { return tokens_ * head_dim_ * Bits / 8; }
  Index bytes() const { return round_up(code_bytes() + affine_.bytes(), record_alignment); }

  Tile* tile(std::byte* record, Index token, Index channel) const {
    return reinterpret_cast<Tile*>(record + affine_.bytes()) + tile_index(token, channel);
  }
  const Tile* tile(const std::byte* record, Index token, Index channel) const {
    return reinterpret_cast<const Tile*>(record + affine_.bytes()) + tile_index(token, channel);
  }
  const AffineTable& table() const { return affine_; }

  template <class Real>
  Affine<Real> affine(const std::byte* record, Index channel) const {
    return affine_.get<Real>(record, channel);
  }
  template <class Real>
  void set_affine(std::byte* record, Index channel, const Affine<Real>& affine) const {
    affine_.set(record, channel, affine);
  }

  /// Dequantizes tokens [0, tokens) into out[tokens][head_dim].
  template <class Real>
  void decode(const std::byte* record, Index tokens, Real* out) const {
    std::uint8_t codes[Tile::depths][Tile::lanes];
    for (Index c = 0; c < head_dim_; c += Tile::depths) {
      for (Index t = 0; t < tokens; t += Tile::lanes) {
        tile(record, t, c)->unpack(codes);
        for (Index depth = 0; depth < Tile::depths; ++depth) {
          const Affine<Real> a = affine<Real>(record, c + depth);
          for (Index lane = 0; lane < std::min(Tile::lanes, tokens - t); ++lane)
            out[(t + lane) * head_dim_ + c + depth] =
                a.scale * static_cast<Real>(codes[depth][lane]) + a.zero;
        }
      }
    }
  }

 private:
  Index tile_index(Index token, Index channel) const {
    return token / Tile::lanes * (head_dim_ / Tile::depths) + channel / Tile::depths;
  }

  Index head_dim_;
  Index tokens_;
  AffineTable affine_;
};

/// Values of the same tokens of one kv head; they arrive one by one. Lanes are channels, depths are
/// tokens; a head_dim that is no multiple of 16 leaves the last 8 lanes unused:
///
///     CodeTile<Bits> tile[ceil(head_dim / 16)][tokens / 8]   channel 16 a + lane, token 8 b +
///     depth scale[groups][tokens], zero[groups][tokens]            per token and channel group
///     padding to 32 bytes
template <int Bits>
class ValueBlock {
 public:
  using Tile = CodeTile<Bits>;

  ValueBlock(Index head_dim, const Config& config)
      : head_dim_(head_dim),
        tokens_(config.token_group_size),
        group_size_(std::min(config.token_group_size, head_dim)),
        groups_((head_dim + group_size_ - 1) / group_size_),
        affine_(groups_ * tokens_, config.scale_bits) {}

  Index head_dim() const { return head_dim_; }
  Index tokens() const { return tokens_; }
  Index groups() const { return groups_; }
  Index group_begin(Index group) const { return group * group_size_; }
  Index group_end(Index group) const { return std::min((group + 1) * group_size_, head_dim_); }
  Index code_bytes() const { return round_up(head_dim_, Tile::lanes) * tokens_ * Bits / 8; }
  Index bytes() const { return round_up(code_bytes() + affine_.bytes(), record_alignment); }

  Tile* tile(std::byte* record, Index token, Index channel) const {
    return reinterpret_cast<Tile*>(record + affine_.bytes()) + tile_index(token, channel);
  }
  const Tile* tile(const std::byte* record, Index token, Index channel) const {
    return reinterpret_cast<const Tile*>(record + affine_.bytes()) + tile_index(token, channel);
  }
  const AffineTable& table() const { return affine_; }

  template <class Real>
  Affine<Real> affine(const std::byte* record, Index token, Index group) const {
    return affine_.get<Real>(record, group * tokens_ + token);
  }
  template <class Real>
  void set_affine(std::byte* record, Index token, Index group, const Affine<Real>& affine) const {
    affine_.set(record, group * tokens_ + token, affine);
  }

  /// Dequantizes tokens [0, tokens) into out[tokens][head_dim].
  template <class Real>
  void decode(const std::byte* record, Index tokens, Real* out) const {
    for (Index t = 0; t < tokens; ++t, out += head_dim_) {
      for (Index group = 0; group < groups_; ++group) {
        const Affine<Real> a = affine<Real>(record, t, group);
        for (Index c = group_begin(group); c < group_end(group); ++c) {
          const int code = tile(record, t, c)->get(c % Tile::lanes, t % Tile::depths);
          out[c] = a.scale * static_cast<Real>(code) + a.zero;
        }
      }
    }
  }

 private:
  Index tile_index(Index token, Index channel) const {
    return channel / Tile::lanes * (tokens_ / Tile::depths) + token / Tile::depths;
  }

  Index head_dim_;
  Index tokens_;
  Index group_size_;
  Index groups_;
  AffineTable affine_;
};

}  // namespace squat
