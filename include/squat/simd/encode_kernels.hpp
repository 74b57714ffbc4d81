// The operations that encoding a block is made of, and their versions in plain C++.
#pragma once

#include <squat/affine.hpp>
#include <squat/code_tile.hpp>
#include <squat/hadamard.hpp>
#include <squat/unbiased.hpp>

namespace squat::simd {

/// How the grid of a group is found.
enum class GridFit { min_max, unbiased, symmetric };

inline GridFit grid_fit(Backend backend) {
  return backend == Backend::unbiased ? GridFit::unbiased : GridFit::min_max;
}

struct GroupFormat {
  int bits;
  int scale_bits;
  GridFit fit;
};

/// Encoding. As in VectorKernels the portable version is the specification; here others
/// compute the very same bits, except where it says otherwise. The first three are for codes of one
/// tile width.
struct EncodeKernels {
  /// Eight channels of a key block: x [tokens, 8], rows `stride` apart, tokens a multiple of 32.
  /// Writes eight scales and eight zeros of 16 or 32 bits, and the tiles of these channels, which
  /// are tile_stride bytes apart. x becomes the error, stored - x.
  void (*keys)(float* x, Index stride, Index tokens, int scale_bits, std::byte* scales,
               std::byte* zeros, std::uint8_t* tile, Index tile_stride);
  /// Packs the bits of codes [8][tokens] of eight channels from bit `shift` on into their tiles,
  /// tile_stride bytes apart.
  void (*pack)(const std::uint8_t* codes, int shift, Index tokens, std::uint8_t* tile,
               Index tile_stride);
  /// Writes codes [n], n a multiple of 8, at `depth` of tiles that are tile_stride bytes apart, 16
  /// lanes each.
  void (*put)(const std::uint8_t* codes, Index n, std::uint8_t* tile, Index tile_stride,
              Index depth);

  /// Eight channels of `blocks` key blocks of one head. Keys lie as x [8][blocks][tokens], with
  /// feedback from each `step` channels (1, 2, 4 or 8) to those behind them: channel k moves by the
  /// sum over i < k / step * step of inner[8 k + i] * error_i. Writes affine [blocks][8] and codes
  /// [blocks][8][tokens]; x becomes error, stored - x, x as it was before it moved. What takes time
  /// is that a step waits for the one before it: its channels and all blocks do so side by side.
  void (*octet)(float* x, Index blocks, Index tokens, const float* inner, Index step,
                const GroupFormat& format, const float* expected, Affine<float>* affine,
                std::uint8_t* codes);
  /// store_affine8() of eight channels.
  void (*store8)(const Affine<float>* affine, float levels, const float* expected,
                 std::byte* scales, std::byte* middles);
  /// Grids and codes of the groups of x[0..n), at most 512 numbers, `length` to a group but perhaps
  /// for the last.
  void (*groups)(const float* x, Index n, Index length, const GroupFormat& format,
                 CodeGrid<float>* grids, std::uint8_t* codes);
  /// hadamard of x[0..n), which versions may round otherwise.
  void (*rotate)(float* x, Index n);

  /// x [rows, columns] transposed: column c goes to out[c] [rows]. Rows and columns are multiples
  /// of 8, the rows of x are `stride` apart.
  void (*transpose)(const float* x, Index stride, Index rows, Index columns, float* const* out);
  /// out [rows, columns] += a [rows, n] b [n, columns]; rows are a multiple of 4, columns of 8,
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
      float channel[128] = {};  // the largest block
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
  static void put(const std::uint8_t* codes, Index n, std::uint8_t* tile, Index tile_stride,
                  Index depth) {
    using Tile = CodeTile<Bits>;
    for (Index c = 0; c < n; ++c)
      reinterpret_cast<Tile*>(tile + c / Tile::lanes * tile_stride)
          ->set(c % Tile::lanes, depth, codes[c]);
  }

  static CodeGrid<float> encode(const float* x, Index n, const GroupFormat& format, float expected,
                                std::uint8_t* codes) {
    if (format.fit == GridFit::unbiased)
      return unbiased_codes(x, n, format.bits, format.scale_bits, expected, codes);
    if (format.fit == GridFit::symmetric)
      return symmetric_codes(x, n, format.bits, format.scale_bits, codes);
    const float levels = static_cast<float>((1 << format.bits) - 1);
    const Affine<float> affine = min_max(x, n, levels, format.scale_bits, expected);
    const float inverse = inverse_scale(affine);
    for (Index i = 0; i < n; ++i)
      codes[i] = static_cast<std::uint8_t>(nearest_code(x[i], affine, inverse, levels));
    return nearest_grid(affine);
  }

  static void octet(float* x, Index blocks, Index tokens, const float* inner, Index step,
                    const GroupFormat& format, const float* expected, Affine<float>* affine,
                    std::uint8_t* codes) {
    const Index stride = blocks * tokens;
    for (Index k = 0; k < 8; ++k)
      for (Index block = 0; block < blocks; ++block) {
        float* const first = x + block * tokens;  // of channel 0
        float moved[128] = {};                    // the largest block
        for (Index t = 0; t < tokens; ++t) moved[t] = first[k * stride + t];
        for (Index i = 0; i < k / step * step; ++i)
          for (Index t = 0; t < tokens; ++t) moved[t] += inner[8 * k + i] * first[i * stride + t];
        std::uint8_t* own = codes + (8 * block + k) * tokens;
        const Affine<float> stored =
            encode(moved, tokens, format, expected == nullptr ? 0 : expected[k], own);
        affine[8 * block + k] = stored;
        for (Index t = 0; t < tokens; ++t)
          first[k * stride + t] =
              stored.scale * static_cast<float>(own[t]) + stored.zero - first[k * stride + t];
      }
  }

  static void store8(const Affine<float>* affine, float levels, const float* expected,
                     std::byte* scales, std::byte* middles) {
    for (Index k = 0; k < 8; ++k)
      store_affine8(affine[k], levels, expected == nullptr ? 0 : expected[k], scales + k,
                    middles + k);
  }

  static void groups(const float* x, Index n, Index length, const GroupFormat& format,
                     CodeGrid<float>* grids, std::uint8_t* codes) {
    for (Index i = 0; i < n; i += length)
      *grids++ = encode(x + i, std::min(length, n - i), format, 0, codes + i);
  }

  static void transpose(const float* x, Index stride, Index rows, Index columns,
                        float* const* out) {
    for (Index row = 0; row < rows; ++row)
      for (Index c = 0; c < columns; ++c) out[c][row] = x[row * stride + c];
  }

  static void add_products(const float* a, Index a_stride, const float* b, Index b_stride,
                           float* out, Index out_stride, Index rows, Index n, Index columns) {
    for (Index row = 0; row < rows; ++row)
      for (Index i = 0; i < n; ++i)
        for (Index c = 0; c < columns; ++c)
          out[row * out_stride + c] += a[row * a_stride + i] * b[i * b_stride + c];
  }

  template <int Bits>
  static constexpr EncodeKernels kernels() {
    return {keys<Bits>, pack<Bits>,      put<Bits>, octet,       store8,
            groups,     hadamard<float>, transpose, add_products};
  }
};

}  // namespace squat::simd
