// The powers of two in which records have their numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace squat::detail {

/// Largest magnitudes of some keys and values of a kv head.
struct RecordTops {
  float keys = 0;
  float values = 0;
};

/// Keys and values of a kv head are packed in units of 2^keys and 2^values, so that scales and zero
/// points of 8 and 16 bits hold small numbers as precisely as larger ones. Exponents are multiples
/// of 8: numbers of the size that models have mostly lie in units of 1, and those that grow a
/// little stay in their units. They are never above 0: scales hold what a cache takes.
struct RecordUnits {
  static constexpr int step = 8;
  /// Of what is all zeros.
  static constexpr int none = -120;

  std::int8_t keys = 0;
  std::int8_t values = 0;

  /// In which the largest numbers are `tops`.
  static RecordUnits of(const RecordTops& tops) {
    return {fitting(tops.keys), fitting(tops.values)};
  }

  /// The same where they hold numbers as large as `tops`, larger ones where not.
  RecordUnits raised(const RecordTops& tops) const {
    const RecordUnits wanted = of(tops);
    return {holds(keys, tops.keys) ? keys : wanted.keys,
            holds(values, tops.values) ? values : wanted.values};
  }

  /// Whether what was packed in `before` reads back the same in these: zeros are zeros in any.
  bool reads_like(const RecordUnits& before) const {
    return (keys == before.keys || before.keys == none) &&
           (values == before.values || before.values == none);
  }

  bool operator==(const RecordUnits& other) const {
    return keys == other.keys && values == other.values;
  }

  static bool is_valid(std::int64_t exponent) {
    return exponent >= none && exponent <= 0 && exponent % step == 0;
  }

 private:
  /// The largest number is below 2^10 units, and if those can be smaller it is not below 4 of them:
  /// there is room for scales that are smaller, and for what feedback and later tokens add.
  static std::int8_t fitting(float top) {
    if (!(top > 0)) return none;
    const int below = std::ilogb(top) - 2 - (step - 1);  // division rounds up
    return static_cast<std::int8_t>(std::clamp(below / step * step, none + step, 0));
  }
  static bool holds(int exponent, float top) {
    if (exponent == none) return !(top > 0);
    return exponent == 0 || top < std::ldexp(1.0f, exponent + 14);
  }
};

/// 2^exponent.
template <class Real>
Real unit_of(int exponent) {
  return std::ldexp(Real(1), exponent);
}

}  // namespace squat::detail
