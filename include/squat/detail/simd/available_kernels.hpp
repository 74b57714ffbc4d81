// The versions of the kernels that this build has, and the best one that this machine runs.
#pragma once

#include <array>
#include <cstdlib>
#include <squat/detail/simd/avx2.hpp>
#include <squat/detail/simd/avx512.hpp>
#include <squat/detail/simd/avx512_matrix.hpp>
#include <squat/detail/simd/neon.hpp>
#include <squat/detail/simd/portable.hpp>
#include <squat/error.hpp>
#include <string>
#include <utility>

namespace squat::detail::simd {

enum class InstructionSet { portable, avx2, avx512, neon };

/// Whether this machine has `set` and this build includes it.
inline bool is_available(InstructionSet set) {
  switch (set) {
    case InstructionSet::portable:
      return true;
#if defined(SQUAT_HAVE_AVX2)
    case InstructionSet::avx2:
      // F16C has no name in every compiler; all machines with AVX2 have it.
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(SQUAT_HAVE_AVX512)
    case InstructionSet::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vnni");
#endif
#if defined(SQUAT_HAVE_NEON)
    case InstructionSet::neon:
      return Neon::is_available();
#endif
    default:
      return false;
  }
}

inline InstructionSet best_available() {
  for (InstructionSet set : {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::neon})
    if (is_available(set)) return set;
  return InstructionSet::portable;
}

/// What the environment variable SQUAT_SIMD names (portable, avx2, avx512 or neon), or else the
/// best available. Fails on a name of nothing that this machine and this build have.
inline InstructionSet requested() {
  const char* variable = std::getenv("SQUAT_SIMD");
  if (variable == nullptr || *variable == '\0') return best_available();
  const std::string name = variable;
  const std::pair<const char*, InstructionSet> known[] = {{"portable", InstructionSet::portable},
                                                          {"avx2", InstructionSet::avx2},
                                                          {"avx512", InstructionSet::avx512},
                                                          {"neon", InstructionSet::neon}};
  std::string allowed;
  for (const auto& [known_name, set] : known) {
    if (!is_available(set)) continue;
    if (name == known_name) return set;
    allowed += (allowed.empty() ? "" : ", ") + std::string(known_name);
  }
  fail("SQUAT_SIMD is '" + name + "'; on this machine, with this build, it can be: " + allowed);
}

inline VectorKernels vector_kernels_for(InstructionSet set) {
  require(is_available(set), "instruction set ", static_cast<int>(set), " is not available");
#if defined(SQUAT_HAVE_AVX2)
  if (set == InstructionSet::avx2) return Avx2::vector_kernels();
#endif
#if defined(SQUAT_HAVE_AVX512)
  if (set == InstructionSet::avx512) return Avx512::vector_kernels();
#endif
#if defined(SQUAT_HAVE_NEON)
  if (set == InstructionSet::neon) return Neon::vector_kernels();
#endif
  return Portable::vector_kernels();
}

template <int Bits>
DotKernels dot_kernels_for(InstructionSet set) {
  require(is_available(set), "instruction set ", static_cast<int>(set), " is not available");
#if defined(SQUAT_HAVE_AVX2)
  if (set == InstructionSet::avx2) return dot_kernels_of<Avx2::Dot, Bits>();
#endif
#if defined(SQUAT_HAVE_AVX512)
  if (set == InstructionSet::avx512) return dot_kernels_of<Avx512::Dot, Bits>();
#endif
#if defined(SQUAT_HAVE_NEON)
  if (set == InstructionSet::neon) return dot_kernels_of<Neon::Dot, Bits>();
#endif
  return dot_kernels_of<Portable::Dot, Bits>();
}

inline MatrixKernels matrix_kernels_for(InstructionSet set) {
  require(is_available(set), "instruction set ", static_cast<int>(set), " is not available");
#if defined(SQUAT_HAVE_AVX512)
  if (set == InstructionSet::avx512) return Avx512Matrix::kernels();
#endif
#if defined(SQUAT_HAVE_AVX2)
  if (set == InstructionSet::avx2) return Avx2Matrix::kernels();
#endif
  return PortableMatrix::kernels();
}

}  // namespace squat::detail::simd
