// The encoding kernels in use: the best that this machine runs.
#pragma once

#include <squat/detail/compiled_once.hpp>
#include <squat/detail/encoding/simd/encode_kernels.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail::simd {

/// For codes of 1, 2, 3, 4 or 8 bits. The environment (SQUAT_SIMD) is asked once.
SQUAT_COMPILED_ONCE const EncodeKernels& encode_kernels(int bits = 2);

/// Chooses all kernels, so that no later call fails for the lack of them. Fails as requested()
/// does.
inline void choose_kernels() {
  vector_kernels();
  dot_kernels(2);
  matrix_kernels();
  encode_kernels();
}

}  // namespace squat::detail::simd

#if !defined(SQUAT_COMPILED)
#include <squat/detail/encoding/simd/encode_dispatch_source.hpp>
#endif
