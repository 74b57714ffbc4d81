// Where the keys of each channel lie.
#pragma once

#include <squat/detail/math/reproducible.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// Running description of the keys of one kv head, channel by channel, from whole blocks.
class KeyStatistics {
 public:
  explicit KeyStatistics(Index head_dim)
      : squared_ranges_(Eigen::VectorXd::Zero(head_dim)),
        midpoints_(Eigen::VectorXd::Zero(head_dim)) {}

  /// From its parts: sums over `blocks` blocks, each [head_dim].
  KeyStatistics(Eigen::VectorXd squared_ranges, Eigen::VectorXd midpoints, double blocks)
      : squared_ranges_(std::move(squared_ranges)),
        midpoints_(std::move(midpoints)),
        blocks_(blocks) {}

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
    for (Index c = 0; c < low.size(); ++c)
      squared_ranges_[c] += rounded((high[c] - low[c]) * (high[c] - low[c]));
    midpoints_ += (high + low) / 2;
    blocks_ += 1;
  }

  Index bytes() const { return 2 * squared_ranges_.size() * Index{sizeof(double)}; }
  /// Means over the blocks [head_dim].
  Eigen::VectorXd squared_ranges() const { return squared_ranges_ / std::max(blocks_, 1.0); }
  Eigen::VectorXd midpoints() const { return midpoints_ / std::max(blocks_, 1.0); }
  /// The parts.
  const Eigen::VectorXd& sum_of_squared_ranges() const { return squared_ranges_; }
  const Eigen::VectorXd& sum_of_midpoints() const { return midpoints_; }
  double blocks() const { return blocks_; }

 private:
  Eigen::VectorXd squared_ranges_;
  Eigen::VectorXd midpoints_;
  double blocks_ = 0;
};

}  // namespace squat::detail
