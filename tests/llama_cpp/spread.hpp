// How far numbers lie apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace squat::testing {

inline bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(),
                     [](float value) { return std::isfinite(value); });
}

/// Infinite where numbers are not finite, or not as many.
inline float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || !all_finite(a) || !all_finite(b))
    return std::numeric_limits<float>::infinity();
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

inline float deviation(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float value : values) sum += value, squares += value * value;
  const auto count = static_cast<double>(values.size());
  return static_cast<float>(std::sqrt(squares / count - sum / count * (sum / count)));
}

}  // namespace squat::testing
