// Which queries of a long sequence say what its next keys go by.
#pragma once

#include <squat/options.hpp>

namespace squat::detail {

/// With FitQueries::follow the queries of tokens [1280, 1792), [2304, 2816) and so on are gathered,
/// each time for a new plan. 512 tokens have enough of them; between windows there are no moments,
/// which take memory. The first window begins where a short sequence has ended.
struct QueryWindow {
  static constexpr Index first = 1280, length = 512, period = 1024;
  /// Of tokens that come one by one, one of so many says what the others do: it takes time.
  static constexpr Index sampled = 8;
  /// Tokens sampled without which there is no plan.
  static constexpr Index enough = 32;

  bool is_open = false;  ///< whether tokens [size, size + rows) are in one
  bool begins = false;   ///< whether what was gathered before is of another
  bool takes = false;    ///< whether their queries are gathered
  bool ends = false;     ///< whether they are its last ones

  QueryWindow(FitQueries fit, Index size, Index rows) {
    const Index end = size + rows;
    if (fit != FitQueries::follow || end <= first) return;
    const Index start = first + (end - 1 - first) / period * period;
    is_open = size < start + length;
    begins = size < start + sampled;
    takes = is_open && end / sampled > size / sampled;
    ends = is_open && end >= start + length;
  }
};

}  // namespace squat::detail
