// What the keys of a layer are quantized with.
#pragma once

#include <memory>
#include <squat/detail/plan/bit_allocation.hpp>
#include <squat/detail/plan/key_metric.hpp>
#include <squat/detail/plan/key_statistics.hpp>
#include <squat/memory.hpp>

namespace squat::detail {

/// How keys of a layer are quantized, an entry a kv head.
template <class Real>
struct KeyPlan {
  KeyLayouts layouts;
  std::vector<ErrorFeedback<Real>> feedback;  ///< channels in the order of the layout

  /// Keeps of feedback what the rest is made from, for keys that leave in blocks. For those that
  /// leave one by one, making it anew would take longer than the keys.
  void compress(const LayerSettings& settings) {
    for (ErrorFeedback<Real>& one : feedback)
      if (!settings.has_token_scales) one.compress();
  }
  /// Feedback with all tables: `room`, if they have to be made.
  const std::vector<ErrorFeedback<Real>>& expanded(std::vector<ErrorFeedback<Real>>& room) const {
    room.clear();
    for (const ErrorFeedback<Real>& one : feedback)
      if (one.is_compressed()) room.push_back(one.expanded());
    return room.empty() ? feedback : room;  // heads are alike
  }

  Index bytes() const {
    Index sum = Index{sizeof(*this)};
    for (const auto& table : feedback) sum += Index{sizeof(table)} + table.bytes();
    return sum;
  }
};

/// The plan for keys that lie as `layouts` say and whose errors cost what `metrics` say, an entry a
/// kv head each. Fails on a metric that is not positive definite.
template <class Real>
std::shared_ptr<const KeyPlan<Real>> make_plan(const std::vector<KeyMetric>& metrics,
                                               const KeyLayouts& layouts,
                                               const LayerSettings& settings) {
  std::vector<ErrorFeedback<Real>> feedback;
  for (std::size_t head = 0; head < metrics.size(); ++head) {
    const KeyRecordLayout& layout = (*layouts)[head];
    const bool turns = settings.has_token_scales && settings.rotates_keys;
    feedback.push_back(
        (turns ? metrics[head].rotated(layout.rotation()) : metrics[head].reordered(layout.order()))
            .template feedback<Real>(settings.feedback_step, !settings.has_token_scales));
  }
  return std::make_shared<const KeyPlan<Real>>(KeyPlan<Real>{layouts, std::move(feedback)});
}

/// As above for keys that lie where `statistics` say, in units for numbers up to `tops`, beside
/// values less `value_means` (an entry of which may be empty, or all of it), an entry a kv head
/// each; settings.key_bits is not 0. Keys with scales per token keep `blank_layouts`, those of keys
/// of which nothing is known. Depends on nothing else.
template <class Real>
std::shared_ptr<const KeyPlan<Real>> make_plan(const std::vector<KeyMetric>& metrics,
                                               const std::vector<KeyStatistics>& statistics,
                                               const std::vector<RecordTops>& tops,
                                               const std::vector<std::vector<float>>& value_means,
                                               const KeyLayouts& blank_layouts,
                                               const LayerSettings& settings) {
  if (settings.has_token_scales) return make_plan<Real>(metrics, blank_layouts, settings);
  std::vector<KeyRecordLayout> layouts;
  for (std::size_t head = 0; head < metrics.size(); ++head) {
    const Index head_dim = metrics[head].head_dim();
    BitAllocation bits = settings.has_adaptive_bits
                             ? allocate_bits(metrics[head], statistics[head].squared_ranges(),
                                             settings.key_bits, settings.key_fit)
                             : even_bits(head_dim, settings.key_bits);
    layouts.emplace_back(head_dim, std::move(bits), settings);
    layouts.back().set_units(RecordUnits::of(tops[head]));
    layouts.back().set_expected(statistics[head].midpoints());
    if (!value_means.empty()) layouts.back().set_value_mean(value_means[head]);
  }
  return make_plan<Real>(
      metrics, std::make_shared<const std::vector<KeyRecordLayout>>(std::move(layouts)), settings);
}

}  // namespace squat::detail
