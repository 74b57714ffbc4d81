// The operations that encoding a block is made of, and their versions in plain C++.
#pragma once

#include <squat/affine.hpp>
#include <squat/code_tile.hpp>

namespace squat::simd {

/// Encoding with codes of one width by min-max. As in VectorKernels the portable version is the
/// specification; here others compute the very same bits.
template <int Bits>
struct EncodeKernels {
  /// Eight channels of a key block: x [tokens, 8], rows `stride` apart, tokens a multiple of 32.
  /// Writes eight scales and eight zeros, and the tiles of these channels, which are tile_stride
  /// bytes apart. x becomes the error, stored - x.
  void (*keys)(float* x, Index stride, Index tokens, int scale_bits, std::byte* scales,
               std::byte* zeros, std::uint8_t* tile, Index tile_stride);

  /// One channel of a key block whose keys lie as [head_dim, tokens]: x [tokens] becomes the error,
  /// and its codes go to codes [tokens], a byte each.
  void (*channel)(float* x, Index tokens, int scale_bits, std::byte* scale, std::byte* zero,
                  std::uint8_t* codes);
  /// Packs codes [8][tokens] of eight channels into their tiles, tile_stride bytes apart.
  void (*pack)(const std::uint8_t* codes, Index tokens, std::uint8_t* tile, Index tile_stride);

  /// One group of n channels (a multiple of 8) of a value: writes its scale and zero, and its codes
  /// at `depth` of tiles that are tile_stride bytes apart.
  void (*value)(const float* x, Index n, int scale_bits, std::byte* scale, std::byte* zero,
                std::uint8_t* tile, Index tile_stride, Index depth);

  /// out [rows, columns] += a [rows, n] b [n, columns]; rows and columns are multiples of 8,
  /// strides are those of rows. Here versions may differ in rounding.
  void (*add_products)(const float* a, Index a_stride, const float* b, Index b_stride, float* out,
                       Index out_stride, Index rows, Index n, Index columns);
};

struct PortableEncode {
  template <int Bits>
  static void keys(float* x, Index stride, Index tokens, int scale_bits, std::byte* scales,
                   std::byte* zeros, std::uint8_t* tile, Index tile_stride) {
    using Tile = CodeTile<Bits>;
    constexpr float levels = static_cast<float>((1 << Bits) - 1);
    const Index bytes = scale_bits / 8;
    for (Index depth = 0; depth < Tile::depths; ++depth) {
      float channel[128];  // the largest block
      for (Index t = 0; t < tokens; ++t) channel[t] = x[t * stride + depth];
      const Affine<float> affine = min_max(channel, tokens, levels, scale_bits);
      const float inverse = inverse_scale(affine);
      store_affine(affine.scale, scale_bits, scales + depth * bytes);
      store_affine(affine.zero, scale_bits, zeros + depth * bytes);
      for (Index t = 0; t < tokens; ++t) {
        const float code = nearest_code(channel[t], affine, inverse, levels);
        reinterpret_cast<Tile*>(tile + t / Tile::lanes * tile_stride)
            ->set(t % Tile::lanes, depth, static_cast<int>(code));
        x[t * stride + depth] = affine.scale * code + affine.zero - channel[t];
      }
    }
  }

  template <int Bits>
  static void channel(float* x, Index tokens, int scale_bits, std::byte* scale, std::byte* zero,
                      std::uint8_t* codes) {
    constexpr float levels = static_cast<float>((1 << Bits) - 1);
    const Affine<float> affine = min_max(x, tokens, levels, scale_bits);
    const float inverse = inverse_scale(affine);
    store_affine(affine.scale, scale_bits, scale);
    store_affine(affine.zero, scale_bits, zero);
    for (Index t = 0; t < tokens; ++t) {
      const float code = nearest_code(x[t], affine, inverse, levels);
      codes[t] = static_cast<std::uint8_t>(code);
      x[t] = affine.scale * code + affine.zero - x[t];
    }
  }

  template <int Bits>
  static void pack(const std::uint8_t* codes, Index tokens, std::uint8_t* tile, Index tile_stride) {
    using Tile = CodeTile<Bits>;
    for (Index t = 0; t < tokens; t += Tile::lanes, tile += tile_stride) {
      std::uint8_t rows[Tile::depths][Tile::lanes];
      for (Index depth = 0; depth < Tile::depths; ++depth)
        std::copy_n(codes + depth * tokens + t, Tile::lanes, rows[depth]);
      reinterpret_cast<Tile*>(tile)->pack(rows);
    }
  }

  template <int Bits>
  static void value(const float* x, Index n, int scale_bits, std::byte* scale, std::byte* zero,
                    std::uint8_t* tile, Index tile_stride, Index depth) {
    using Tile = CodeTile<Bits>;
    constexpr float levels = static_cast<float>((1 << Bits) - 1);
    const Affine<float> affine = min_max(x, n, levels, scale_bits);
    const float inverse = inverse_scale(affine);
    store_affine(affine.scale, scale_bits, scale);
    store_affine(affine.zero, scale_bits, zero);
    for (Index c = 0; c < n; ++c)
      reinterpret_cast<Tile*>(tile + c / Tile::lanes * tile_stride)
          ->set(c % Tile::lanes, depth,
                static_cast<int>(nearest_code(x[c], affine, inverse, levels)));
  }

  static void add_products(const float* a, Index a_stride, const float* b, Index b_stride,
                           float* out, Index out_stride, Index rows, Index n, Index columns) {
    for (Index row = 0; row < rows; ++row)
      for (Index i = 0; i < n; ++i)
        for (Index c = 0; c < columns; ++c)
          out[row * out_stride + c] += a[row * a_stride + i] * b[i * b_stride + c];
  }

  template <int Bits>
  static constexpr EncodeKernels<Bits> kernels() {
    return {keys<Bits>, channel<Bits>, pack<Bits>, value<Bits>, add_products};
  }
};

}  // namespace squat::simd
