// What a layer knows of its queries and keys.
#pragma once

#include <squat/detail/plan/gathered_queries.hpp>
#include <squat/detail/plan/key_plan.hpp>

namespace squat::detail {

/// What a layer knows of its queries and keys, and what follows from it for the keys that leave
/// the residual next.
template <class Real>
struct KeyFit {
  std::vector<GatheredQueries> queries;       ///< per kv head, until the plan is the last one
  std::vector<KeyStatistics> statistics;      ///< as long, of the keys packed since the fit began
  std::shared_ptr<const KeyPlan<Real>> plan;  ///< null until keys leave, and when it is outdated

  void forget() {
    queries.clear();
    queries.shrink_to_fit();
    statistics.clear();
    statistics.shrink_to_fit();
  }

  /// No more queries are expected: keeps of them what metrics() asks for.
  void end_prompt(const LayerSettings& settings) {
    for (GatheredQueries& head : queries) head.keep_leading(settings);
  }
  bool prompt_is_over() const { return !queries.empty() && queries.front().has_directions(); }

  /// What the queries say that errors of keys cost, per kv head.
  std::vector<KeyMetric> metrics(const LayerSettings& settings) const {
    std::vector<KeyMetric> metrics;
    for (const GatheredQueries& head : queries) metrics.emplace_back(head.subspace(settings));
    return metrics;
  }

  /// `counted` says what other sequences share.
  Index bytes(Counted& counted) const {
    Index sum = plan && counted.insert(plan.get()).second ? plan->bytes() : 0;
    for (const GatheredQueries& one : queries) sum += Index{sizeof(one)} + one.bytes();
    for (const KeyStatistics& one : statistics) sum += Index{sizeof(one)} + one.bytes();
    return sum;
  }
};

}  // namespace squat::detail
