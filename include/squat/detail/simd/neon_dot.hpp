// Products with packed codes in NEON with dot products.
#pragma once

#include <squat/detail/simd/portable.hpp>

// Compilers other than these know the intrinsics only where every program may use them.
#if defined(__aarch64__) &&            \
    (defined(__ARM_FEATURE_DOTPROD) || \
     (defined(__GNUC__) && (!defined(__clang__) || __clang_major__ >= 16)))
#define SQUAT_HAVE_NEON 1

#include <arm_neon.h>

// As SQUAT_AVX2.
#if defined(__ARM_FEATURE_DOTPROD)
#define SQUAT_NEON
#elif defined(__clang__)
#define SQUAT_NEON __attribute__((target("dotprod")))
#else
#define SQUAT_NEON __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define SQUAT_NEON_INLINE SQUAT_NEON __attribute__((always_inline)) inline

namespace squat::detail::simd {

/// Half a row of tiles, 8 lanes, fills two registers of sums a head; one instruction adds the
/// products of a quad, four consecutive depths, to four lanes.
///
/// Operands of 16 bits are two of 8, 256 high + low with -128 <= low < 128, and so at most 32639.
/// They are stored by quads: the four low ones, then the four high ones.
struct NeonDot {
  static constexpr float largest_operand = 127 * 256 + 127;

  template <int Bits, class Operand, int Heads>
  SQUAT_NEON static void dot_heads(const TileRows<Operand>& tiles, const Folded* folded, float* out,
                                   Index out_stride) {
    const Operand* operands = tiles.operands;
    const std::uint8_t* tile = tiles.tiles;
    Index left_in_group = 0;
    std::int32_t start[Heads][2] = {};
    for (Index row = 0; row < tiles.rows; ++row) {
      if (left_in_group-- == 0) {
        if (row > 0) {
          operands += tiles.group_stride;
          folded += max_heads;
        }
        left_in_group = tiles.rows_per_group - 1;
        if constexpr (Bits == 8)
          for (int h = 0; h < Heads; ++h)
            sum_operands(operands + h * tiles.operand_stride, tiles.depth_tiles, start[h]);
      }
      for (int half = 0; half < 2; ++half)
        dot_lanes<Bits, Operand, Heads>(tiles.add, tile, half, tiles.depth_tiles, operands,
                                        tiles.operand_stride, start, folded,
                                        out + 16 * row + 8 * half, out_stride);
      tile += tiles.depth_tiles * Index{sizeof(CodeTile<Bits>)};
    }
  }

 private:
  /// 128 times the sums of low and of high operands: codes of 8 bits are taken less 128, since
  /// products are of signed bytes.
  SQUAT_NEON_INLINE static void sum_operands(const std::int16_t* operands, Index count,
                                             std::int32_t sums[2]) {
    int32x4_t parts = vdupq_n_s32(0);
    for (; count > 0; --count, operands += 8)
      parts = vdotq_s32(parts, vdupq_n_s8(1), load(operands));
    const int32x2_t pair = vadd_s32(vget_low_s32(parts), vget_high_s32(parts));
    sums[0] = 128 * vget_lane_s32(pair, 0);
    sums[1] = 128 * vget_lane_s32(pair, 1);
  }

  template <int Bits, class Operand, int Heads>
  SQUAT_NEON_INLINE static void dot_lanes(bool add, const std::uint8_t* tile, int half, Index count,
                                          const Operand* operands, Index stride,
                                          const std::int32_t (&start)[Heads][2],
                                          const Folded* folded, float* out, Index out_stride) {
    constexpr int parts = sizeof(Operand);  // low and high
    int32x4_t sums[Heads][parts][2];
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      SQUAT_UNROLL
      for (int part = 0; part < parts; ++part)
        sums[h][part][0] = sums[h][part][1] = vdupq_n_s32(start[h][part]);
    }
    for (; count > 0; --count, tile += sizeof(CodeTile<Bits>), operands += 8) {
      int8x16_t first[2], second[2];  // of both quads
      unpack<Bits>(tile, half, first);
      unpack<Bits>(tile, 2 + half, second);
      SQUAT_UNROLL
      for (int h = 0; h < Heads; ++h) {
        int32x4_t(&low)[2] = sums[h][0];
        if constexpr (parts == 1) {
          SQUAT_UNROLL
          for (int i = 0; i < 2; ++i)
            low[i] = add_products(low[i], first[i], second[i], operands + h * stride);
        } else {
          int32x4_t(&high)[2] = sums[h][parts - 1];
          const int8x16_t operand = load(operands + h * stride);
          SQUAT_UNROLL
          for (int i = 0; i < 2; ++i) {
            low[i] = vdotq_laneq_s32(low[i], first[i], operand, 0);
            high[i] = vdotq_laneq_s32(high[i], first[i], operand, 1);
            low[i] = vdotq_laneq_s32(low[i], second[i], operand, 2);
            high[i] = vdotq_laneq_s32(high[i], second[i], operand, 3);
          }
        }
      }
    }
    SQUAT_UNROLL
    for (int h = 0; h < Heads; ++h) {
      SQUAT_UNROLL
      for (int i = 0; i < 2; ++i) {
        float* target = out + h * out_stride + 4 * i;
        float32x4_t sum = vcvtq_f32_s32(sums[h][0][i]);
        if constexpr (parts == 2) sum = vfmaq_n_f32(sum, vcvtq_f32_s32(sums[h][parts - 1][i]), 256);
        const float32x4_t base = add ? vld1q_f32(target) : vdupq_n_f32(folded[h].offset);
        vst1q_f32(target, vfmaq_n_f32(base, sum, folded[h].alpha));
      }
    }
  }

  /// Quarter s of a tile, a byte a code (see CodeTile).
  template <int Bits>
  SQUAT_NEON_INLINE static void unpack(const std::uint8_t* tile, int s, int8x16_t codes[2]) {
    SQUAT_UNROLL
    for (int i = 0; i < 2; ++i) {
      uint8x16_t x;
      if constexpr (Bits == 8) {
        x = veorq_u8(vld1q_u8(tile + 32 * s + 16 * i), vdupq_n_u8(128));
      } else if constexpr (Bits == 4) {
        x = vld1q_u8(tile + 32 * (s % 2) + 16 * i);
        x = s < 2 ? vandq_u8(x, vdupq_n_u8(15)) : vshrq_n_u8(x, 4);
      } else if constexpr (Bits == 1) {
        x = vandq_u8(shift(vld1q_u8(tile), -2 * s - i), vdupq_n_u8(1));
      } else {
        // A negative shift is one to the right.
        x = vandq_u8(shift(vld1q_u8(tile + 16 * i), -2 * s), vdupq_n_u8(3));
        if constexpr (Bits == 3)
          x = vorrq_u8(x, vandq_u8(shift(vld1q_u8(tile + 32), 2 - 2 * s - i), vdupq_n_u8(4)));
      }
      codes[i] = vreinterpretq_s8_u8(x);
    }
  }

  SQUAT_NEON_INLINE static uint8x16_t shift(uint8x16_t x, int left) {
    return vshlq_u8(x, vdupq_n_s8(static_cast<std::int8_t>(left)));
  }
  /// The products of two quads with their operands.
  SQUAT_NEON_INLINE static int32x4_t add_products(int32x4_t sums, int8x16_t first, int8x16_t second,
                                                  const std::int8_t* operands) {
    const int8x8_t operand = vld1_s8(operands);
    sums = vdotq_lane_s32(sums, first, operand, 0);
    return vdotq_lane_s32(sums, second, operand, 1);
  }
  SQUAT_NEON_INLINE static int32x4_t add_products(int32x4_t sums, int8x16_t first, int8x16_t second,
                                                  const std::uint8_t* operands) {
    const uint8x8_t operand = vld1_u8(operands);
    uint32x4_t positive = vreinterpretq_u32_s32(sums);
    positive = vdotq_lane_u32(positive, vreinterpretq_u8_s8(first), operand, 0);
    positive = vdotq_lane_u32(positive, vreinterpretq_u8_s8(second), operand, 1);
    return vreinterpretq_s32_u32(positive);
  }
  /// The low and high operands of a tile's depths.
  SQUAT_NEON_INLINE static int8x16_t load(const std::int16_t* operands) {
    return vreinterpretq_s8_s16(vld1q_s16(operands));
  }
};

}  // namespace squat::detail::simd

#endif
