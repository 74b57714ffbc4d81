// Memory that runs out when a test says so: operator new, and malloc through the linker's
// --wrap=malloc, since Eigen allocates with malloc.
#pragma once

#include <cstddef>

namespace squat::testing {

/// From now on `count` allocations succeed and all that follow fail; negative: none fails.
void allow_allocations(long count);

/// Bytes that were ever allocated.
std::size_t allocated_bytes();

}  // namespace squat::testing
