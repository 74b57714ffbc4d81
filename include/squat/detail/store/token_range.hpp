// Part of a sequence.
#pragma once

#include <algorithm>
#include <squat/matrix.hpp>

namespace squat::detail {

/// Tokens [begin, end).
struct TokenRange {
  Index begin = 0;
  Index end = 0;

  /// Which of `count` tokens from `first` on are in the range, counted from `first`.
  TokenRange among(Index first, Index count) const {
    const Index from = std::clamp(begin - first, Index{0}, count);
    return {from, std::clamp(end - first, from, count)};
  }
};

}  // namespace squat::detail
