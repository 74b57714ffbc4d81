// NEON with dot products (Armv8.2).
#pragma once

#include <squat/detail/simd/kernels128.hpp>
#include <squat/detail/simd/matrix_kernels.hpp>

#if defined(SQUAT_HAVE_NEON)

#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace squat::detail::simd {

struct Neon {
  static constexpr const char* name = "neon";
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

  static constexpr VectorKernels vector_kernels() {
    VectorKernels kernels = Kernels128::vector_kernels();
    kernels.read_f16_table = read_f16_table;
    return kernels;
  }
  using Dot = NeonDot;
  using Matrix = PortableMatrix;

 private:
  SQUAT_NEON_INLINE static float32x4_t single(const std::uint16_t* half) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half)));
  }
};

}  // namespace squat::detail::simd

#endif
