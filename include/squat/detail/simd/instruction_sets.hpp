// The instruction sets that this build has kernels for, and the best one that this machine runs.
#pragma once

#include <array>
#include <cstdlib>
#include <squat/detail/simd/avx2.hpp>
#include <squat/detail/simd/avx512.hpp>
#include <squat/detail/simd/neon.hpp>
#include <squat/detail/simd/portable.hpp>
#include <squat/detail/simd/sse4.hpp>
#include <squat/error.hpp>
#include <string>

namespace squat::detail::simd {

struct InstructionSet {
  const char* name;        ///< that SQUAT_SIMD has for it
  bool (*is_available)();  ///< whether this machine has it
  VectorKernels vector;
  std::array<DotKernels, 5> dot;  ///< for codes of 1, 2, 3, 4 and 8 bits
  MatrixKernels matrix;

  const DotKernels& dot_for(int bits) const { return dot[width_index(bits)]; }
};

template <class Set>
constexpr InstructionSet instruction_set() {
  using Dot = typename Set::Dot;
  return {Set::name,
          Set::is_available,
          Set::vector_kernels(),
          {dot_kernels_of<Dot, 1>(), dot_kernels_of<Dot, 2>(), dot_kernels_of<Dot, 3>(),
           dot_kernels_of<Dot, 4>(), dot_kernels_of<Dot, 8>()},
          Set::Matrix::kernels()};
}

/// The best first. Another one is a header that has what instruction_set() asks of `Set`, and an
/// entry here.
inline constexpr InstructionSet instruction_sets[] = {
#if defined(SQUAT_HAVE_AVX512)
    instruction_set<Avx512>(),
#endif
#if defined(SQUAT_HAVE_AVX2)
    instruction_set<Avx2>(),
#endif
#if defined(SQUAT_HAVE_SSE4)
    instruction_set<Sse4>(),
#endif
#if defined(SQUAT_HAVE_NEON)
    instruction_set<Neon>(),
#endif
    instruction_set<Portable>()};

/// What the environment variable SQUAT_SIMD names, or else the best that this machine has. Fails on
/// a name of nothing that this machine and this build have.
inline const InstructionSet& requested() {
  const char* variable = std::getenv("SQUAT_SIMD");
  const std::string name = variable == nullptr ? "" : variable;
  std::string allowed;
  for (const InstructionSet& set : instruction_sets) {
    if (!set.is_available()) continue;
    if (name.empty() || name == set.name) return set;
    allowed += (allowed.empty() ? "" : ", ") + std::string(set.name);
  }
  fail("SQUAT_SIMD is '" + name + "'; on this machine, with this build, it can be: " + allowed);
}

}  // namespace squat::detail::simd
