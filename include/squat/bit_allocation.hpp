// What an error in a channel costs, and how many bits that is worth.
#pragma once

#include <numeric>
#include <squat/key_block.hpp>
#include <squat/query_subspace.hpp>

namespace squat {

/// A = U D U^T with U unit upper triangular: D_j is what an error in channel j still costs once the
/// channels after it have moved to make up for it.
struct UnitUpperFactor {
  Matrix<double> u;
  Eigen::VectorXd d;

  /// Fails on a metric A [n, n] that is not positive definite.
  explicit UnitUpperFactor(const Matrix<double>& metric) : u(metric), d(metric.rows()) {
    for (Index j = u.rows() - 1; j >= 0; --j) {
      d[j] = u(j, j);
      require(d[j] > 0 && std::isfinite(d[j]), "metric is not positive definite at channel ", j);
      for (Index i = 0; i < j; ++i) {
        const double factor = u(i, j) / d[j];
        for (Index k = i; k < j; ++k) u(i, k) -= factor * u(k, j);
      }
      // Only now: column j of A was needed above.
      for (Index i = 0; i < j; ++i) u(i, j) /= d[j];
    }
  }
};

/// Running description of the keys of one kv head, channel by channel, from whole blocks.
class KeyStatistics {
 public:
  explicit KeyStatistics(Index head_dim)
      : squared_ranges_(Eigen::VectorXd::Zero(head_dim)),
        middles_(Eigen::VectorXd::Zero(head_dim)) {}

  /// From its parts: sums over `blocks` blocks, each [head_dim].
  KeyStatistics(Eigen::VectorXd squared_ranges, Eigen::VectorXd middles, double blocks)
      : squared_ranges_(std::move(squared_ranges)), middles_(std::move(middles)), blocks_(blocks) {}

  /// Adds a block of keys [tokens, head_dim]; tokens that `mask` leaves out do not count.
  template <class Keys>
  void add(const Keys& keys, const Mask& mask) {
    Eigen::VectorXd low, high;
    bool any = false;
    for (Index token = 0; token < keys.rows(); ++token) {
      if (!mask[token]) continue;
      const Eigen::VectorXd key = keys.row(token).transpose().template cast<double>();
      low = any ? Eigen::VectorXd(low.cwiseMin(key)) : key;
      high = any ? Eigen::VectorXd(high.cwiseMax(key)) : key;
      any = true;
    }
    if (!any) return;
    squared_ranges_ += (high - low).cwiseAbs2();
    middles_ += (high + low) / 2;
    blocks_ += 1;
  }

  Index bytes() const { return 2 * squared_ranges_.size() * Index{sizeof(double)}; }
  /// Means over the blocks [head_dim].
  Eigen::VectorXd squared_ranges() const { return squared_ranges_ / std::max(blocks_, 1.0); }
  Eigen::VectorXd middles() const { return middles_ / std::max(blocks_, 1.0); }
  /// The parts.
  const Eigen::VectorXd& sum_of_squared_ranges() const { return squared_ranges_; }
  const Eigen::VectorXd& sum_of_middles() const { return middles_; }
  double blocks() const { return blocks_; }

 private:
  Eigen::VectorXd squared_ranges_;
  Eigen::VectorXd middles_;
  double blocks_ = 0;
};

/// Widths as equal as a mean of at most `mean_bits` allows, for channels of which nothing is known.
inline BitAllocation even_bits(Index head_dim, double mean_bits) {
  const std::size_t octets = static_cast<std::size_t>(head_dim / 8);
  const std::size_t budget =
      static_cast<std::size_t>(mean_bits * static_cast<double>(octets) + 1e-6);
  BitAllocation allocation;
  for (std::size_t i = 0; i < octets; ++i)
    allocation.bits.push_back(
        static_cast<std::uint8_t>((budget + i) / octets));  // the wide ones last
  return allocation;
}

/// Mean squared rounding error of codes of `bits` bits, in squared ranges of the group times a
/// factor that all widths share: of codes spread over the range, or, with Backend::unbiased, of
/// numbers with a normal distribution (measured).
inline double rounding_cost(int bits, Backend backend) {
  constexpr double unbiased[] = {0.571, 0.1348, 0.0389, 0.01167, 0.00351, 0.00104, 0.00031, 9e-5};
  return backend == Backend::unbiased ? unbiased[bits - 1]
                                      : 1 / std::pow(std::pow(2.0, bits) - 1, 2);
}

/// The widths, 1 to 8, of eight channels at a time with a mean of at most `mean_bits` that make the
/// sum of D_j range_j^2 rounding_cost(b_j) least. Channels that are worth equally much share a
/// width; narrow ones come first.
inline BitAllocation allocate_bits(const QuerySubspace& subspace,
                                   const Eigen::VectorXd& squared_ranges, double mean_bits,
                                   Backend backend) {
  const Index d = subspace.head_dim();
  const auto costs = [&](const std::vector<std::uint16_t>& order) {
    const Eigen::VectorXd left = UnitUpperFactor(subspace.reordered(order).metric()).d;
    std::vector<double> cost(order.size());
    for (std::size_t i = 0; i < order.size(); ++i)
      cost[i] = left[static_cast<Index>(i)] * squared_ranges[order[i]];
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
          octet_cost[i] * (rounding_cost(bits[i], backend) - rounding_cost(bits[i] + 1, backend));
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

}  // namespace squat
