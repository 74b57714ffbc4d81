// How much memory the program has.
#pragma once

#include <cstddef>
#include <squat/matrix.hpp>

#if defined(__SANITIZE_ADDRESS__)
#define SQUAT_TESTS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SQUAT_TESTS_ASAN 1
#endif
#endif

#if defined(SQUAT_TESTS_ASAN)
// Declared here because not every installation has sanitizer/allocator_interface.h.
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();
#elif defined(__GLIBC__)
#include <malloc.h>
#endif

namespace squat::testing {

/// Bytes that the program has allocated and not freed; -1 where nobody counts them.
inline Index allocated_bytes() {
#if defined(SQUAT_TESTS_ASAN)
  return static_cast<Index>(__sanitizer_get_current_allocated_bytes());
#elif defined(__GLIBC__)
  const auto info = mallinfo2();
  return static_cast<Index>(info.uordblks + info.hblkhd);
#else
  return -1;
#endif
}

}  // namespace squat::testing
