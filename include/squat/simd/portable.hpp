// The operations in plain C++: the specification of every other version.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <squat/simd/kernels.hpp>

namespace squat::simd {

struct Portable {
  static void widen(const std::uint16_t* half, Index n, float centre, float* scale, float* middle) {
    const auto single = [](std::uint16_t bits) {
      return Eigen::half_impl::half_to_float(Eigen::half_impl::raw_uint16_to_half(bits));
    };
    for (Index i = 0; i < n; ++i) {
      scale[i] = single(half[i]);
      middle[i] = single(half[n + i]) + centre * scale[i];
    }
  }

  /// One row of fold8 and fold16. Returns max |x scale| / rms(x scale).
  template <class Operand>
  static float fold(const float* x, const float* scale, const float* middle, Index n, float centre,
                    float largest, Operand* operands, Folded& folded) {
    float w[max_length];
    float highest = 0, squares = 0, offset = 0;
    for (Index i = 0; i < n; ++i) {
      w[i] = x[i] * scale[i];
      highest = std::max(highest, std::abs(w[i]));
      squares += w[i] * w[i];
      offset += x[i] * middle[i];
    }
    const float inverse = highest > 0 ? largest / highest : 0.0f;
    std::int32_t sum = 0;
    for (Index i = 0; i < n; ++i) {
      operands[i] = static_cast<Operand>(std::nearbyint(w[i] * inverse));
      sum += operands[i];
    }
    folded.alpha = highest / largest;
    folded.offset = offset - centre * folded.alpha * static_cast<float>(sum);
    return squares > 0 ? highest / std::sqrt(squares / static_cast<float>(n)) : 0.0f;
  }

  static void fold8(const float* x, Index x_stride, Index count, const float* scale,
                    const float* middle, Index n, float centre, std::int8_t* operands,
                    Index operand_stride, Folded* folded) {
    for (Index i = 0; i < count; ++i)
      fold(x + i * x_stride, scale, middle, n, centre, 127.0f, operands + i * operand_stride,
           folded[i]);
  }

  static bool try_fold8(const float* x, Index x_stride, Index count, const float* scale,
                        const float* middle, Index n, float centre, float crest,
                        float largest_alpha, std::int8_t* operands, Index operand_stride,
                        Folded* folded) {
    for (Index i = 0; i < count; ++i)
      if (fold(x + i * x_stride, scale, middle, n, centre, 127.0f, operands + i * operand_stride,
               folded[i]) > crest ||
          folded[i].alpha > largest_alpha)
        return false;
    return true;
  }

  static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                     const float* middle, Index n, float centre, float largest,
                     std::int16_t* operands, Index operand_stride, Folded* folded) {
    for (Index i = 0; i < count; ++i)
      fold(x + i * x_stride, scale, middle, n, centre, largest, operands + i * operand_stride,
           folded[i]);
  }

  template <int Bits, class Operand, bool Add>
  static void dot(const TileRow<Operand>& first, Index rows, const Folded* folded, float* out,
                  Index out_stride) {
    using Tile = CodeTile<Bits>;
    const Tile* tile = reinterpret_cast<const Tile*>(first.tiles);
    for (Index row = 0; row < rows; ++row) {
      std::int32_t sums[max_heads][Tile::lanes] = {};
      for (Index t = 0; t < first.count; ++t, ++tile) {
        std::uint8_t codes[Tile::depths][Tile::lanes];
        tile->unpack(codes);
        for (Index head = 0; head < first.heads; ++head)
          for (Index depth = 0; depth < Tile::depths; ++depth) {
            const std::int32_t operand =
                first.operands[head * first.operand_stride + t * Tile::depths + depth];
            for (Index lane = 0; lane < Tile::lanes; ++lane)
              sums[head][lane] += operand * codes[depth][lane];
          }
      }
      for (Index head = 0; head < first.heads; ++head)
        for (Index lane = 0; lane < Tile::lanes; ++lane) {
          float& target = out[head * out_stride + row * Tile::lanes + lane];
          target = (Add ? target : folded[head].offset) +
                   folded[head].alpha * static_cast<float>(sums[head][lane]);
        }
    }
  }

  static float exponentiate(float* scores, Index n, float& highest) {
    for (Index i = 0; i < n; ++i) highest = std::max(highest, scores[i]);
    float sum = 0;
    for (Index i = 0; i < n; ++i) {
      scores[i] = scores[i] == -std::numeric_limits<float>::infinity()
                      ? 0.0f
                      : std::exp(scores[i] - highest);
      sum += scores[i];
    }
    return sum;
  }

  static void dot_rows(const float* rows, Index count, Index n, const float* query, float* scores) {
    for (Index r = 0; r < count; ++r) {
      float sum = 0;
      for (Index i = 0; i < n; ++i) sum += rows[r * n + i] * query[i];
      scores[r] = sum;
    }
  }

  static void add_rows(const float* rows, Index count, Index n, const float* weights, float* out) {
    for (Index r = 0; r < count; ++r)
      for (Index i = 0; i < n; ++i) out[i] += weights[r] * rows[r * n + i];
  }

  static constexpr VectorKernels vector_kernels() {
    return {"portable", widen, fold8, try_fold8, fold16, exponentiate, dot_rows, add_rows};
  }

  template <int Bits>
  static constexpr DotKernels<Bits> dot_kernels() {
    return {dot<Bits, std::int8_t, false>, dot<Bits, std::int16_t, false>,
            dot<Bits, std::int8_t, true>, dot<Bits, std::int16_t, true>};
  }
};

}  // namespace squat::simd
