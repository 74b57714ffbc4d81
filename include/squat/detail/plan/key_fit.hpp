// What a layer knows of its queries and keys.
#pragma once

#include <squat/detail/plan/key_plan.hpp>

namespace squat::detail {

/// What a layer knows of its queries and keys, and what follows from it for the keys that leave
/// the residual next.
template <class Real>
struct KeyFit {
  std::vector<SecondMoment> moments;          // per kv head, while there may be more queries
  std::vector<KeyStatistics> statistics;      // per kv head, of the keys packed since the fit began
  std::shared_ptr<const KeyPlan<Real>> plan;  // null until keys leave, and when it is outdated

  void forget() {
    moments.clear();
    moments.shrink_to_fit();
    statistics.clear();
    statistics.shrink_to_fit();
  }

  /// What the moments say that errors of keys cost, per kv head.
  std::vector<KeyMetric> metrics(const LayerSettings& settings) const {
    std::vector<KeyMetric> metrics;
    for (const SecondMoment& moment : moments)
      metrics.emplace_back(QuerySubspace::fit(moment, settings.subspace_dim, settings.lambda,
                                              settings.has_normalised_lambda,
                                              settings.subspace_method));
    return metrics;
  }

  /// `counted` says what other sequences share.
  Index bytes(Counted& counted) const {
    Index sum = plan && counted.insert(plan.get()).second ? plan->bytes() : 0;
    for (const SecondMoment& moment : moments) sum += Index{sizeof(moment)} + moment.bytes();
    for (const KeyStatistics& one : statistics) sum += Index{sizeof(one)} + one.bytes();
    return sum;
  }
};

}  // namespace squat::detail
