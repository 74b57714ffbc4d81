// Part of a sequence.
#pragma once

#include <squat/matrix.hpp>

namespace squat::detail {

/// Tokens [begin, end).
struct TokenRange {
  Index begin = 0;
  Index end = 0;
};

}  // namespace squat::detail
