// What an error in a channel costs, and how many bits that is worth.
#pragma once

#include <algorithm>
#include <numeric>
#include <squat/detail/plan/key_metric.hpp>
#include <squat/detail/plan/metric_factor.hpp>
#include <squat/detail/records/key_layouts.hpp>

namespace squat::detail {

/// Mean squared rounding error of codes of `bits` bits, in squared ranges of the group times a
/// factor that all widths share: of codes spread over the range, or, with ScaleFit::unbiased, of
/// numbers with a normal distribution (measured).
inline double rounding_cost(int bits, ScaleFit fit) {
  constexpr double unbiased[] = {0.571, 0.1348, 0.0389, 0.01167, 0.00351, 0.00104, 0.00031, 9e-5};
  const double steps = (1 << bits) - 1;
  return fit == ScaleFit::unbiased ? unbiased[bits - 1] : 1 / (steps * steps);
}

/// Squared ranges of keys to come, given those of a prompt: no less than a tenth of their median,
/// and all alike where they are zero. A prompt that repeats itself leaves channels still in which
/// what follows moves.
inline Eigen::VectorXd likely_squared_ranges(const Eigen::VectorXd& of_prompt) {
  if (!(of_prompt.maxCoeff() > 0)) return Eigen::VectorXd::Ones(of_prompt.size());
  Eigen::VectorXd sorted = of_prompt;
  double* const median = sorted.data() + sorted.size() / 2;
  std::nth_element(sorted.data(), median, sorted.data() + sorted.size());
  return of_prompt.cwiseMax(0.1 * *median);
}

/// The widths, 1 to 8, of eight channels at a time with a mean of at most `mean_bits` that make the
/// sum of D_j range_j^2 rounding_cost(b_j) least, for likely_squared_ranges(). Channels that are
/// worth equally much share a width; narrow ones come first. Metric is KeyMetric; a template so
/// that only what calls it compiles it.
template <class Metric>
BitAllocation allocate_bits(const Metric& metric, const Eigen::VectorXd& squared_ranges,
                            double mean_bits, ScaleFit fit) {
  const Index d = metric.head_dim();
  const Eigen::VectorXd ranges = likely_squared_ranges(squared_ranges);
  const auto costs = [&](const std::vector<std::uint16_t>& order) {
    const Eigen::VectorXd left = UnitUpperFactor(metric.reordered(order).matrix()).d;
    std::vector<double> cost(order.size());
    for (std::size_t i = 0; i < order.size(); ++i)
      cost[i] = left[static_cast<Index>(i)] * ranges[order[i]];
    return cost;
  };
  std::vector<std::uint16_t> order(static_cast<std::size_t>(d));
  std::iota(order.begin(), order.end(), std::uint16_t{0});
  const std::vector<double> cost = costs(order);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint16_t a, std::uint16_t b) { return cost[a] < cost[b]; });

  // What is left after feedback depends on the order, so it counts once more.
  const std::size_t octets = static_cast<std::size_t>(d / 8);
  std::vector<double> octet_cost(octets, 0.0);
  const std::vector<double> sorted_cost = costs(order);
  for (std::size_t i = 0; i < order.size(); ++i) octet_cost[i / 8] += sorted_cost[i];
  std::vector<std::uint8_t> bits(octets, 1);
  const Index budget = static_cast<Index>(mean_bits * static_cast<double>(octets) + 1e-6);
  for (Index spent = static_cast<Index>(octets); spent < budget; ++spent) {
    std::size_t best = octets;
    double best_gain = -1;
    for (std::size_t i = 0; i < octets; ++i) {
      if (bits[i] == 8) continue;
      const double gain =
          octet_cost[i] * (rounding_cost(bits[i], fit) - rounding_cost(bits[i] + 1, fit));
      if (gain >= best_gain) {
        best = i;
        best_gain = gain;
      }
    }
    ++bits[best];
  }

  std::vector<std::size_t> turn(octets);
  std::iota(turn.begin(), turn.end(), std::size_t{0});
  std::stable_sort(turn.begin(), turn.end(),
                   [&](std::size_t a, std::size_t b) { return bits[a] < bits[b]; });
  BitAllocation allocation;
  for (const std::size_t octet : turn) {
    allocation.bits.push_back(bits[octet]);
    allocation.order.insert(allocation.order.end(), order.begin() + static_cast<Index>(8 * octet),
                            order.begin() + static_cast<Index>(8 * octet + 8));
  }
  return allocation;
}

}  // namespace squat::detail
