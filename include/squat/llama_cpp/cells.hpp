// llama.cpp's own cells, which hold a batch's keys and values until they are in the cache.
#pragma once

#include <ggml.h>

#include <cstdint>
#include <squat/matrix.hpp>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace squat::llama_cpp {

/// Gives back to the system the memory of the rows [begin, end) of `cells`, whose content nobody
/// needs, as far as they fill whole pages. On systems other than Linux the memory stays.
inline void give_back([[maybe_unused]] const ggml_tensor& cells, [[maybe_unused]] Index begin,
                      [[maybe_unused]] Index end) {
#if defined(__linux__)
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto row = [&](Index i) {
    return static_cast<char*>(cells.data) + static_cast<std::size_t>(i) * cells.nb[1];
  };
  const auto offset = [&](const char* address) {
    return reinterpret_cast<std::uintptr_t>(address) % page;
  };
  char* const from = row(begin) + (page - offset(row(begin))) % page;
  char* const to = row(end) - offset(row(end));
  // Refused, for example, where memory is locked: then it stays.
  if (from < to) (void)madvise(from, static_cast<std::size_t>(to - from), MADV_DONTNEED);
#endif
}

}  // namespace squat::llama_cpp
