// The operations in plain C++: the specification of every other version.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <squat/detail/records/affine.hpp>
#include <squat/detail/simd/kernels.hpp>
#include <squat/detail/simd/matrix_kernels.hpp>

namespace squat::detail::simd {

struct Portable {
  static constexpr const char* name = "portable";
  static bool is_available() { return true; }

  static void read_f16_table(const std::uint16_t* scales, const std::uint16_t* zeros, Index n,
                             float centre, float* scale, float* midpoint) {
    const auto single = [](std::uint16_t bits) {
      return Eigen::half_impl::half_to_float(Eigen::half_impl::raw_uint16_to_half(bits));
    };
    for (Index i = 0; i < n; ++i) {
      scale[i] = single(scales[i]);
      midpoint[i] = zeros == nullptr ? 0.0f : single(zeros[i]) + centre * scale[i];
    }
  }

  static void read_8_bit_table(const std::uint8_t* scales, const std::int8_t* midpoints,
                               const float* expected, Index n, float step, float* scale,
                               float* midpoint) {
    for (Index i = 0; i < n; ++i) {
      scale[i] = scale_from_byte(scales[i]);
      midpoint[i] = expected == nullptr ? 0.0f : expected[i];
      if (midpoints != nullptr) midpoint[i] += scale[i] * step * static_cast<float>(midpoints[i]);
    }
  }

  template <class Code>
  static void widen(const Code* codes, const std::uint16_t* scales, Index n, float* out) {
    for (Index i = 0; i < n; ++i) {
      const std::uint32_t bits = std::uint32_t{scales[i / 32]} << 16;
      out[i] = static_cast<float>(codes[i]) * Eigen::numext::bit_cast<float>(bits);
    }
  }

  static float to_fixed_point(const float*, Index, std::int16_t*) {
    return 0;
  }  // has no use for it

  /// Rounds x scale / alpha, and leaves no bias for a code of `centre`.
  template <class Operand>
  static Folded round(const float* x, const float* scale, const float* midpoint, Index n,
                      float centre, float alpha, Operand* operands) {
    const float inverse = 1 / std::max(alpha, 1e-34f);  // that of a subnormal would be infinite
    float offset = 0;
    std::int32_t sum = 0;
    for (Index i = 0; i < n; ++i) {
      offset += x[i] * midpoint[i];
      operands[i] = static_cast<Operand>(std::nearbyint(x[i] * scale[i] * inverse));
      sum += operands[i];
    }
    return {alpha, offset - centre * alpha * static_cast<float>(sum)};
  }

  static float highest_product(const float* x, const float* scale, Index n) {
    float max = 0;
    for (Index i = 0; i < n; ++i) max = std::max(max, std::abs(x[i] * scale[i]));
    return max;
  }

  static bool try_fold8(const float* x, Index x_stride, const std::int16_t*, const float*,
                        Index count, const float* scale, const float* midpoint, Index n,
                        float centre, float crest, float largest_alpha, std::int8_t* operands,
                        Folded* folded) {
    for (Index row = 0; row < count; ++row, x += x_stride, operands += max_length) {
      const float max = highest_product(x, scale, n);
      float squares = 0;
      for (Index i = 0; i < n; ++i) squares += x[i] * scale[i] * x[i] * scale[i];
      if (max * max * static_cast<float>(n) > crest * crest * squares) return false;
      folded[row] = round(x, scale, midpoint, n, centre, max / 127, operands);
      if (folded[row].alpha > largest_alpha) return false;
    }
    return true;
  }

  static bool try_fold8_positive(const float* x, Index x_stride, Index count, const float* scale,
                                 const float* midpoint, Index groups, Index n, float centre,
                                 std::int32_t least, std::uint8_t* operands, Folded* folded) {
    bool is_fine = true;
    for (Index group = 0; group < groups; ++group, scale += n, midpoint += n)
      for (Index row = 0; row < count; ++row) {
        const float* xs = x + row * x_stride;
        std::uint8_t* target = operands + (group * max_heads + row) * max_block;
        const float alpha = *std::max_element(xs, xs + n) * *std::max_element(scale, scale + n);
        folded[group * max_heads + row] =
            round(xs, scale, midpoint, n, centre, alpha / 255, target);
        std::int32_t squares = 0;
        for (Index i = 0; i < n; ++i) squares += target[i] * target[i];
        is_fine &= squares >= least || !(alpha > 0);
      }
    return is_fine;
  }

  static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                     const float* midpoint, Index n, float centre, float largest,
                     std::int16_t* operands, Folded* folded) {
    for (Index row = 0; row < count; ++row, x += x_stride, operands += max_length)
      folded[row] =
          round(x, scale, midpoint, n, centre, highest_product(x, scale, n) / largest, operands);
  }

  template <int Bits, class Operand, int Heads>
  static void dot_heads(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                        Index out_stride) {
    using Tile = CodeTile<Bits>;
    const Tile* tile = reinterpret_cast<const Tile*>(tiles.tiles);
    for (Index row = 0; row < tiles.rows; ++row) {
      const Index group = row / tiles.rows_per_group;
      const Operand* operands = tiles.operands + group * tiles.group_stride;
      std::int32_t sums[Heads][Tile::lanes] = {};
      for (Index t = 0; t < tiles.depth_tiles; ++t, ++tile, operands += Tile::depths) {
        std::uint8_t codes[Tile::depths][Tile::lanes];
        tile->unpack(codes);
        for (Index head = 0; head < Heads; ++head)
          for (Index depth = 0; depth < Tile::depths; ++depth)
            for (Index lane = 0; lane < Tile::lanes; ++lane)
              sums[head][lane] +=
                  operands[head * tiles.operand_stride + depth] * codes[depth][lane];
      }
      for (Index head = 0; head < Heads; ++head) {
        const Folded& fold = folded[group * max_heads + head];
        for (Index lane = 0; lane < Tile::lanes; ++lane) {
          float& target = out[head * out_stride + row * Tile::lanes + lane];
          target = (tiles.add ? target : fold.offset) +
                   fold.alpha * static_cast<float>(sums[head][lane]);
        }
      }
    }
  }

  static void exponentiate(float* scores, Index stride, Index rows, Index n, float* max,
                           float* sums) {
    for (Index row = 0; row < rows; ++row, scores += stride) {
      max[row] = std::max(max[row], *std::max_element(scores, scores + n));
      sums[row] = 0;
      for (Index i = 0; i < n; ++i) {
        scores[i] = is_minus_infinity(scores[i]) ? 0.0f : std::exp(scores[i] - max[row]);
        sums[row] += scores[i];
      }
    }
  }

  static void dot_rows(const float* rows, Index count, Index n, const float* queries,
                       Index query_count, float* scores, Index stride) {
    for (Index q = 0; q < query_count; ++q)
      for (Index r = 0; r < count; ++r) {
        float sum = 0;
        for (Index i = 0; i < n; ++i) sum += rows[r * n + i] * queries[q * n + i];
        scores[q * stride + r] = sum;
      }
  }

  static void add_rows(const float* rows, Index count, Index n, const float* weights,
                       Index weight_stride, Index sum_count, float* sums, Index stride) {
    for (Index q = 0; q < sum_count; ++q)
      for (Index r = 0; r < count; ++r)
        for (Index i = 0; i < n; ++i)
          sums[q * stride + i] += weights[q * weight_stride + r] * rows[r * n + i];
  }

  static constexpr VectorKernels vector_kernels() {
    return {read_f16_table,
            read_8_bit_table,
            widen<std::int8_t>,
            widen<std::int16_t>,
            to_fixed_point,
            try_fold8,
            try_fold8_positive,
            fold16,
            exponentiate,
            dot_rows,
            add_rows};
  }

  using Dot = Portable;
  using Matrix = PortableMatrix;
};

}  // namespace squat::detail::simd
