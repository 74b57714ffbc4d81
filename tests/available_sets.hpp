// The instruction sets that this machine has, as parameters of tests.
#pragma once

#include <gtest/gtest.h>

#include <squat/detail/simd/instruction_sets.hpp>
#include <string>
#include <vector>

namespace squat::testing {

using Set = const detail::simd::InstructionSet*;

inline std::vector<Set> available_sets() {
  std::vector<Set> sets;
  for (const detail::simd::InstructionSet& set : detail::simd::instruction_sets)
    if (set.is_available()) sets.push_back(&set);
  return sets;
}

inline std::string name_of(const ::testing::TestParamInfo<Set>& set) { return set.param->name; }

}  // namespace squat::testing
