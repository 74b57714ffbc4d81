// The operations in NEON with dot products (Armv8.2).
#pragma once

#include <squat/detail/simd/neon_dot.hpp>

#if defined(SQUAT_HAVE_NEON)

#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace squat::detail::simd {

struct Neon {
  static bool is_available() {
#if defined(__ARM_FEATURE_DOTPROD) || defined(__APPLE__)
    return true;
#elif defined(__linux__)
    constexpr unsigned long dot_products = 1ul << 20;  // HWCAP_ASIMDDP
    return (getauxval(AT_HWCAP) & dot_products) != 0;
#else
    return false;
#endif
  }

  SQUAT_NEON static void read_f16_table(const std::uint16_t* scales, const std::uint16_t* zeros,
                                        Index n, float centre, float* scale, float* midpoint) {
    for (Index i = 0; i < n; i += 4) {
      const float32x4_t s = single(scales + i);
      vst1q_f32(scale + i, s);
      vst1q_f32(midpoint + i,
                zeros == nullptr ? vdupq_n_f32(0) : vfmaq_n_f32(single(zeros + i), s, centre));
    }
  }

  static float to_fixed_point(const float*, Index, std::int16_t*) {
    return 0;
  }  // has no use for it

  SQUAT_NEON static bool try_fold8(const float* x, Index x_stride, const std::int16_t*,
                                   const float*, Index count, const float* scale,
                                   const float* midpoint, Index n, float centre, float crest,
                                   float largest_alpha, std::int8_t* operands, Folded* folded) {
    for (Index row = 0; row < count; ++row, x += x_stride, operands += max_length) {
      float32x4_t top[2] = {}, squares[2] = {};
      for (Index i = 0; i < n; i += 8) {
        SQUAT_UNROLL
        for (int k = 0; k < 2; ++k) {
          const float32x4_t product =
              vmulq_f32(vld1q_f32(x + i + 4 * k), vld1q_f32(scale + i + 4 * k));
          top[k] = vmaxq_f32(top[k], vabsq_f32(product));
          squares[k] = vfmaq_f32(squares[k], product, product);
        }
      }
      const float max = vmaxvq_f32(vmaxq_f32(top[0], top[1]));
      const float energy = vaddvq_f32(vaddq_f32(squares[0], squares[1]));
      if (max * max * static_cast<float>(n) > crest * crest * energy || max / 127 > largest_alpha)
        return false;
      folded[row] = round(x, scale, midpoint, n, centre, max / 127, operands);
    }
    return true;
  }

  SQUAT_NEON static bool try_fold8_positive(const float* x, Index x_stride, Index count,
                                            const float* scale, const float* midpoint, Index groups,
                                            Index n, float centre, std::int32_t least,
                                            std::uint8_t* operands, Folded* folded) {
    float max[max_heads];
    for (Index row = 0; row < count; ++row) max[row] = maximum(x + row * x_stride, n);
    bool is_fine = true;
    for (Index group = 0; group < groups; ++group, scale += n, midpoint += n) {
      const float highest_scale = maximum(scale, n);
      for (Index row = 0; row < count; ++row) {
        std::uint8_t* target = operands + (group * max_heads + row) * max_block;
        const float alpha = max[row] * highest_scale / 255;
        folded[group * max_heads + row] =
            round(x + row * x_stride, scale, midpoint, n, centre, alpha, target);
        uint32x4_t squares = vdupq_n_u32(0);
        for (Index i = 0; i < n; i += 16) {
          const uint8x16_t bytes = vld1q_u8(target + i);
          squares = vdotq_u32(squares, bytes, bytes);
        }
        is_fine &= static_cast<std::int32_t>(vaddvq_u32(squares)) >= least || !(alpha > 0);
      }
    }
    return is_fine;
  }

  SQUAT_NEON static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                                const float* midpoint, Index n, float centre, float largest,
                                std::int16_t* operands, Folded* folded) {
    largest = std::min(largest, NeonDot::largest_operand);
    for (Index row = 0; row < count; ++row, x += x_stride, operands += max_length) {
      float32x4_t top = vdupq_n_f32(0);
      for (Index i = 0; i < n; i += 4)
        top = vmaxq_f32(top, vabsq_f32(vmulq_f32(vld1q_f32(x + i), vld1q_f32(scale + i))));
      folded[row] = round(x, scale, midpoint, n, centre, vmaxvq_f32(top) / largest, operands);
    }
  }

  SQUAT_NEON static void exponentiate(float* scores, Index stride, Index rows, Index n, float* max,
                                      float* sums) {
    for (Index row = 0; row < rows; ++row, scores += stride) {
      float32x4_t top = vld1q_f32(scores);
      for (Index i = 4; i < n; i += 4) top = vmaxq_f32(top, vld1q_f32(scores + i));
      max[row] = std::max(max[row], vmaxvq_f32(top));
      const float32x4_t shift = vdupq_n_f32(max[row]);
      float32x4_t sum = vdupq_n_f32(0);
      for (Index i = 0; i < n; i += 4) {
        const float32x4_t p = exp(vsubq_f32(vld1q_f32(scores + i), shift));
        vst1q_f32(scores + i, p);
        sum = vaddq_f32(sum, p);
      }
      sums[row] = vaddvq_f32(sum);
    }
  }

  SQUAT_NEON static void dot_rows(const float* rows, Index count, Index n, const float* query,
                                  float* scores) {
    for (Index r = 0; r < count; ++r, rows += n) {
      float32x4_t sum[2] = {};
      for (Index i = 0; i < n; i += 8) {
        sum[0] = vfmaq_f32(sum[0], vld1q_f32(rows + i), vld1q_f32(query + i));
        sum[1] = vfmaq_f32(sum[1], vld1q_f32(rows + i + 4), vld1q_f32(query + i + 4));
      }
      scores[r] = vaddvq_f32(vaddq_f32(sum[0], sum[1]));
    }
  }

  SQUAT_NEON static void add_rows(const float* rows, Index count, Index n, const float* weights,
                                  float* out) {
    for (Index i = 0; i < n; i += 8) {
      float32x4_t first = vld1q_f32(out + i), second = vld1q_f32(out + i + 4);
      for (Index r = 0; r < count; ++r) {
        first = vfmaq_n_f32(first, vld1q_f32(rows + r * n + i), weights[r]);
        second = vfmaq_n_f32(second, vld1q_f32(rows + r * n + i + 4), weights[r]);
      }
      vst1q_f32(out + i, first);
      vst1q_f32(out + i + 4, second);
    }
  }

  static constexpr VectorKernels vector_kernels() {
    return {"neon",
            read_f16_table,
            Portable::read_8_bit_table,
            Portable::widen<std::int8_t>,
            Portable::widen<std::int16_t>,
            to_fixed_point,
            try_fold8,
            try_fold8_positive,
            fold16,
            exponentiate,
            dot_rows,
            add_rows};
  }

  using Dot = NeonDot;

 private:
  SQUAT_NEON_INLINE static float32x4_t single(const std::uint16_t* half) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half)));
  }

  SQUAT_NEON_INLINE static float maximum(const float* x, Index n) {
    float32x4_t top = vld1q_f32(x);
    for (Index i = 4; i < n; i += 4) top = vmaxq_f32(top, vld1q_f32(x + i));
    return vmaxvq_f32(top);
  }

  /// Rounds x scale / alpha, and leaves no bias for a code of `centre`.
  template <class Operand>
  SQUAT_NEON_INLINE static Folded round(const float* x, const float* scale, const float* midpoint,
                                        Index n, float centre, float alpha, Operand* operands) {
    const float inverse = alpha > 0 ? 1 / alpha : 0.0f;
    float32x4_t offset[2] = {};
    int32x4_t sum = vdupq_n_s32(0);
    for (Index i = 0; i < n; i += 8) {
      int32x4_t rounded[2];
      SQUAT_UNROLL
      for (int k = 0; k < 2; ++k) {
        const float32x4_t xi = vld1q_f32(x + i + 4 * k);
        offset[k] = vfmaq_f32(offset[k], xi, vld1q_f32(midpoint + i + 4 * k));
        rounded[k] =
            vcvtnq_s32_f32(vmulq_n_f32(vmulq_f32(xi, vld1q_f32(scale + i + 4 * k)), inverse));
        sum = vaddq_s32(sum, rounded[k]);
      }
      store(vcombine_s16(vmovn_s32(rounded[0]), vmovn_s32(rounded[1])), operands + i);
    }
    return {alpha, vaddvq_f32(vaddq_f32(offset[0], offset[1])) -
                       centre * alpha * static_cast<float>(vaddvq_s32(sum))};
  }

  SQUAT_NEON_INLINE static void store(int16x8_t rounded, std::int8_t* operands) {
    vst1_s8(operands, vmovn_s16(rounded));
  }
  SQUAT_NEON_INLINE static void store(int16x8_t rounded, std::uint8_t* operands) {
    vst1_u8(operands, vqmovun_s16(rounded));
  }
  /// As NeonDot wants them.
  SQUAT_NEON_INLINE static void store(int16x8_t rounded, std::int16_t* operands) {
    const int16x8_t above = vaddq_s16(rounded, vdupq_n_s16(128));
    const int8x8_t high = vshrn_n_s16(above, 8), low = vmovn_s16(rounded);
    const int32x2x2_t quads = vzip_s32(vreinterpret_s32_s8(low), vreinterpret_s32_s8(high));
    vst1q_s16(operands, vreinterpretq_s16_s32(vcombine_s32(quads.val[0], quads.val[1])));
  }

  /// e^x for x <= 0, 0 where x < -87 or is no number. Relative error under 3e-7: x = k ln 2 + r,
  /// |r| <= ln 2 / 2; a polynomial (minimax, degree 5) gives e^r.
  SQUAT_NEON_INLINE static float32x4_t exp(float32x4_t x) {
    const float32x4_t lowest = vdupq_n_f32(-87);
    const uint32x4_t kept = vcgeq_f32(x, lowest);
    x = vmaxq_f32(x, lowest);
    const float32x4_t k = vrndnq_f32(vmulq_n_f32(x, 1.44269504f));
    float32x4_t r = vfmaq_n_f32(x, k, -0.693359375f);
    r = vfmaq_n_f32(r, k, 2.12194440e-4f);
    float32x4_t p = vdupq_n_f32(8.3125019e-3f);
    p = vfmaq_f32(vdupq_n_f32(4.1890334e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.66671157e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.99992311e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1), p, r);
    p = vfmaq_f32(vdupq_n_f32(1), p, r);
    const int32x4_t exponent = vshlq_n_s32(vcvtq_s32_f32(k), 23);
    return vreinterpretq_f32_u32(
        vandq_u32(kept, vreinterpretq_u32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent))));
  }
};

}  // namespace squat::detail::simd

#endif
