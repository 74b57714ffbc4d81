// SSE 4.1, for processors and virtual machines without AVX2.
#pragma once

#include <squat/detail/simd/kernels128.hpp>
#include <squat/detail/simd/matrix_kernels.hpp>

#if defined(SQUAT_HAVE_SSE4)

namespace squat::detail::simd {

struct Sse4 {
  static constexpr const char* name = "sse4";
  static bool is_available() { return __builtin_cpu_supports("sse4.1"); }

  static constexpr VectorKernels vector_kernels() { return Kernels128::vector_kernels(); }
  using Dot = Sse4Dot;
  using Matrix = PortableMatrix;
};

}  // namespace squat::detail::simd

#endif
