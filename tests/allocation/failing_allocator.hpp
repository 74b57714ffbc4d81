// Memory that is counted and runs out when a test says so: operator new, and malloc and free
// through the linker's --wrap, since Eigen allocates with malloc.
#pragma once

#include <cstddef>

namespace squat::testing {

/// From now on `count` allocations succeed and all that follow fail; negative: none fails.
void allow_allocations(long count);

/// Bytes that were ever allocated.
std::size_t allocated_bytes();

/// Bytes that are allocated now.
std::size_t live_bytes();
/// The most that they were since reset_peak().
std::size_t peak_bytes();
void reset_peak();

}  // namespace squat::testing
