// What a call does for a long sequence whose keys follow its queries.
#pragma once

#include <squat/options.hpp>

namespace squat::detail {

/// With FitQueries::follow, from `first` tokens on keys that leave go by the queries that have come
/// since others did: these take a little memory, and the feedback that follows from them is stored
/// nowhere. Every `period` tokens keys have new bits per channel as well, which are stored.
struct FollowStep {
  static constexpr Index first = 256, period = 1024;
  /// Of tokens that come one by one, one of so many says what the others do: it takes time.
  static constexpr Index sampled = 4;
  /// Tokens whose queries are enough.
  static constexpr Index enough = 4;

  bool follows = false;  ///< whether the sequence is as long as that
  bool takes = false;    ///< whether its new queries are gathered
  bool renews = false;   ///< whether new bits per channel are due

  FollowStep(FitQueries fit, Index size, Index rows) {
    const Index end = size + rows;
    if (fit != FitQueries::follow || end <= first) return;
    follows = true;
    takes = end / sampled > size / sampled;
    renews = size >= first && end / period > size / period;
  }
};

}  // namespace squat::detail
