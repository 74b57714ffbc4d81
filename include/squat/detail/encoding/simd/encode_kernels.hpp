// The operations that encoding a block is made of, and their versions in plain C++.
#pragma once

#include <squat/detail/encoding/unbiased.hpp>
#include <squat/detail/records/affine.hpp>
#include <squat/detail/records/code_tile.hpp>

namespace squat::detail::simd {

/// Encoding. As in VectorKernels the portable version is the specification; here others
/// compute the very same bits, except where it says otherwise. The first three are for codes of one
/// tile width.
struct EncodeKernels {
  /// Eight channels of a key block: x [tokens, 8], rows `stride` apart, tokens a multiple of 32.
  /// Writes eight scales and eight zeros of 16 or 32 bits, and the tiles of these channels, which
  /// are tile_stride bytes apart. x becomes the error, stored - x.
  void (*encode_min_max)(float* x, Index stride, Index tokens, int scale_bits, std::byte* scales,
                         std::byte* zeros, std::uint8_t* tile, Index tile_stride);
  /// Packs the bits of codes [8][tokens] of eight channels from bit `shift` on into their tiles,
  /// tile_stride bytes apart.
  void (*pack)(const std::uint8_t* codes, int shift, Index tokens, std::uint8_t* tile,
               Index tile_stride);
  /// Writes codes [n], n a multiple of 8, at `depth` of tiles that are tile_stride bytes apart, 16
  /// lanes each.
  void (*store_codes_at_depth)(const std::uint8_t* codes, Index n, std::uint8_t* tile,
                               Index tile_stride, Index depth);

  /// Eight channels of `blocks` key blocks of one head. Keys lie as x [8][blocks][tokens], with
  /// feedback from each `step` channels (1, 2, 4 or 8) to those behind them: channel k moves by the
  /// sum over i < k / step * step of inner[8 k + i] * error_i. Writes affine [blocks][8] and codes
  /// [blocks][8][tokens]; x becomes error, stored - x, x as it was before it moved. What takes time
  /// is that a step waits for the one before it: its channels and all blocks do so side by side.
  void (*encode_eight_channels)(float* x, Index blocks, Index tokens, const float* inner,
                                Index step, const GroupFormat& format, const float* expected,
                                Affine<float>* affine, std::uint8_t* codes);
  /// store_affine8() of eight channels.
  void (*store8)(const Affine<float>* affine, float max_code, const float* expected,
                 std::byte* scales, std::byte* midpoints);
  /// Grids and codes of the groups of x[0..n), at most 512 numbers, `length` to a group but perhaps
  /// for the last.
  void (*groups)(const float* x, Index n, Index length, const GroupFormat& format,
                 CodeGrid<float>* grids, std::uint8_t* codes);
};

struct PortableEncode {
  template <int Bits>
  static void encode_min_max(float* x, Index stride, Index tokens, int scale_bits,
                             std::byte* scales, std::byte* zeros, std::uint8_t* tile,
                             Index tile_stride) {
    using Tile = CodeTile<Bits>;
    constexpr float max_code = static_cast<float>((1 << Bits) - 1);
    const Index bytes = scale_bits / 8;
    for (Index depth = 0; depth < Tile::depths; ++depth) {
      float channel[128] = {};  // the largest block
      for (Index t = 0; t < tokens; ++t) channel[t] = x[t * stride + depth];
      const Affine<float> affine = min_max(channel, tokens, max_code, scale_bits);
      const float inverse = inverse_scale(affine);
      store_affine(affine.scale, scale_bits, scales + depth * bytes);
      store_affine(affine.zero, scale_bits, zeros + depth * bytes);
      for (Index t = 0; t < tokens; ++t) {
        const float code = nearest_code(channel[t], affine, inverse, max_code);
        reinterpret_cast<Tile*>(tile + t / Tile::lanes * tile_stride)
            ->set(t % Tile::lanes, depth, static_cast<int>(code));
        x[t * stride + depth] = rounded(affine.scale * code) + affine.zero - channel[t];
      }
    }
  }

  template <int Bits>
  static void pack(const std::uint8_t* codes, int shift, Index tokens, std::uint8_t* tile,
                   Index tile_stride) {
    using Tile = CodeTile<Bits>;
    constexpr int mask = (1 << Bits) - 1;
    for (Index t = 0; t < tokens; t += Tile::lanes, tile += tile_stride) {
      std::uint8_t rows[Tile::depths][Tile::lanes];
      for (Index depth = 0; depth < Tile::depths; ++depth)
        for (Index lane = 0; lane < Tile::lanes; ++lane)
          rows[depth][lane] =
              static_cast<std::uint8_t>(codes[depth * tokens + t + lane] >> shift & mask);
      reinterpret_cast<Tile*>(tile)->pack(rows);
    }
  }

  template <int Bits>
  static void store_codes_at_depth(const std::uint8_t* codes, Index n, std::uint8_t* tile,
                                   Index tile_stride, Index depth) {
    using Tile = CodeTile<Bits>;
    for (Index c = 0; c < n; ++c)
      reinterpret_cast<Tile*>(tile + c / Tile::lanes * tile_stride)
          ->set(c % Tile::lanes, depth, codes[c]);
  }

  static void encode_eight_channels(float* x, Index blocks, Index tokens, const float* inner,
                                    Index step, const GroupFormat& format, const float* expected,
                                    Affine<float>* affine, std::uint8_t* codes) {
    const Index stride = blocks * tokens;
    for (Index k = 0; k < 8; ++k)
      for (Index block = 0; block < blocks; ++block) {
        float* const first = x + block * tokens;  // of channel 0
        float moved[128] = {};                    // the largest block
        for (Index t = 0; t < tokens; ++t) moved[t] = first[k * stride + t];
        for (Index i = 0; i < k / step * step; ++i)
          add_multiple(inner[8 * k + i], first + i * stride, tokens, moved);
        std::uint8_t* own = codes + (8 * block + k) * tokens;
        const Affine<float> stored =
            encode_group(moved, tokens, format, expected == nullptr ? 0.0f : expected[k], own);
        affine[8 * block + k] = stored;
        for (Index t = 0; t < tokens; ++t)
          first[k * stride + t] = rounded(stored.scale * static_cast<float>(own[t])) + stored.zero -
                                  first[k * stride + t];
      }
  }

  static void store8(const Affine<float>* affine, float max_code, const float* expected,
                     std::byte* scales, std::byte* midpoints) {
    for (Index k = 0; k < 8; ++k)
      store_affine8(affine[k], max_code, expected == nullptr ? 0 : expected[k], scales + k,
                    midpoints + k);
  }

  static void groups(const float* x, Index n, Index length, const GroupFormat& format,
                     CodeGrid<float>* grids, std::uint8_t* codes) {
    for (Index i = 0; i < n; i += length)
      *grids++ = encode_group(x + i, std::min(length, n - i), format, 0.0f, codes + i);
  }

  template <int Bits>
  static constexpr EncodeKernels kernels() {
    return {encode_min_max<Bits>,  pack<Bits>, store_codes_at_depth<Bits>,
            encode_eight_channels, store8,     groups};
  }
};

}  // namespace squat::detail::simd
