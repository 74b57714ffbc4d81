#include "failing_allocator.hpp"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace {

long allocations_left = -1;
std::size_t bytes = 0;
std::size_t live = 0;
std::size_t peak = 0;

/// Whether an allocation of `size` bytes fails.
bool is_exhausted(std::size_t size) {
  bytes += size;
  if (allocations_left > 0) --allocations_left;
  return allocations_left == 0;
}

/// Counts what was allocated.
void* counted(void* memory) {
  live += malloc_usable_size(memory);
  peak = std::max(peak, live);
  return memory;
}

}  // namespace

void squat::testing::allow_allocations(long count) {
  allocations_left = count < 0 ? -1 : count + 1;
}

std::size_t squat::testing::allocated_bytes() { return bytes; }
std::size_t squat::testing::live_bytes() { return live; }
std::size_t squat::testing::peak_bytes() { return peak; }
void squat::testing::reset_peak() { peak = live; }

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): the linker's names.
extern "C" void* __real_malloc(std::size_t size);
extern "C" void* __wrap_malloc(std::size_t size) {
  return is_exhausted(size) ? nullptr : counted(__real_malloc(size));
}
extern "C" void __real_free(void* memory);
extern "C" void __wrap_free(void* memory) {
  const std::size_t size = malloc_usable_size(memory);
  live -= std::min(live, size);  // some comes from libraries, whose calls nobody counts
  __real_free(memory);
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

void* operator new(std::size_t size) {
  void* memory = is_exhausted(size) ? nullptr : counted(__real_malloc(size > 0 ? size : 1));
  return memory != nullptr ? memory : throw std::bad_alloc();
}

void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<std::size_t>(alignment);
  void* memory = is_exhausted(size)
                     ? nullptr
                     : counted(std::aligned_alloc(unit, (size + unit - 1) / unit * unit));
  return memory != nullptr ? memory : throw std::bad_alloc();
}

// In the standard library these call the first two, in AddressSanitizer they do not.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return is_exhausted(size) ? nullptr : counted(__real_malloc(size > 0 ? size : 1));
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return operator new(size, std::nothrow);
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return operator new(size, alignment);
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
