// The layouts of a layer's key records, and their units.
#pragma once

#include <memory>
#include <squat/detail/records/key_record_layout.hpp>

namespace squat::detail {

/// The layouts of the key records of a layer, one of each kv head. All have one rotation.
using KeyLayouts = std::shared_ptr<const std::vector<KeyRecordLayout>>;

inline std::vector<RecordUnits> units_of(const KeyLayouts& layouts) {
  std::vector<RecordUnits> units;
  for (const KeyRecordLayout& layout : *layouts) units.push_back(layout.units());
  return units;
}

/// Of each kv head: `units`, or larger ones where they do not hold `tops`.
inline std::vector<RecordUnits> raised(std::vector<RecordUnits> units,
                                       const std::vector<RecordTops>& tops) {
  for (std::size_t head = 0; head < units.size(); ++head)
    units[head] = units[head].raised(tops[head]);
  return units;
}

inline bool have_value_means(const KeyLayouts& layouts) {
  return std::any_of(layouts->begin(), layouts->end(),
                     [](const KeyRecordLayout& layout) { return !layout.value_mean().empty(); });
}

/// The same with value means, an entry a kv head, of which all may be missing or empty.
inline KeyLayouts with_value_means(const KeyLayouts& layouts,
                                   const std::vector<std::vector<float>>& means) {
  if (std::all_of(means.begin(), means.end(), [](const auto& mean) { return mean.empty(); }))
    return layouts;
  std::vector<KeyRecordLayout> others = *layouts;
  for (std::size_t head = 0; head < others.size(); ++head) others[head].set_value_mean(means[head]);
  return std::make_shared<const std::vector<KeyRecordLayout>>(std::move(others));
}

/// `layouts` if they have such a rotation, otherwise others that differ in nothing else.
inline KeyLayouts in_rotation(const KeyLayouts& layouts, Rotation rotation) {
  if (layouts->front().rotation() == rotation) return layouts;
  std::vector<KeyRecordLayout> others = *layouts;
  for (KeyRecordLayout& layout : others) layout.set_rotation(rotation);
  return std::make_shared<const std::vector<KeyRecordLayout>>(std::move(others));
}

/// `layouts` if they have such units, otherwise others that differ in nothing else.
inline KeyLayouts in_units(const KeyLayouts& layouts, const std::vector<RecordUnits>& units) {
  if (units_of(layouts) == units) return layouts;
  std::vector<KeyRecordLayout> others = *layouts;
  for (std::size_t head = 0; head < others.size(); ++head) others[head].set_units(units[head]);
  return std::make_shared<const std::vector<KeyRecordLayout>>(std::move(others));
}

}  // namespace squat::detail
