// The caches of a type of numbers, of all widths of keys and values.
#pragma once

#include <squat/cache.hpp>

// NOLINTBEGIN(bugprone-macro-parentheses): a type and a word of a declaration stand in none
/// Declares them, where `extern_or_nothing` is extern, or compiles them. In namespace squat, behind
/// their definitions.
#define SQUAT_CACHES_OF(Scalar, extern_or_nothing)           \
  extern_or_nothing template class SQuatCache<Scalar, 2, 2>; \
  extern_or_nothing template class SQuatCache<Scalar, 2, 3>; \
  extern_or_nothing template class SQuatCache<Scalar, 2, 4>; \
  extern_or_nothing template class SQuatCache<Scalar, 2, 8>; \
  extern_or_nothing template class SQuatCache<Scalar, 3, 2>; \
  extern_or_nothing template class SQuatCache<Scalar, 3, 3>; \
  extern_or_nothing template class SQuatCache<Scalar, 3, 4>; \
  extern_or_nothing template class SQuatCache<Scalar, 3, 8>; \
  extern_or_nothing template class SQuatCache<Scalar, 4, 2>; \
  extern_or_nothing template class SQuatCache<Scalar, 4, 3>; \
  extern_or_nothing template class SQuatCache<Scalar, 4, 4>; \
  extern_or_nothing template class SQuatCache<Scalar, 4, 8>; \
  extern_or_nothing template class SQuatCache<Scalar, 8, 2>; \
  extern_or_nothing template class SQuatCache<Scalar, 8, 3>; \
  extern_or_nothing template class SQuatCache<Scalar, 8, 4>; \
  extern_or_nothing template class SQuatCache<Scalar, 8, 8>
// NOLINTEND(bugprone-macro-parentheses)
