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
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(cells.data);
  const std::uintptr_t from =
      (first + static_cast<std::uintptr_t>(begin) * cells.nb[1] + page - 1) / page * page;
  const std::uintptr_t to = (first + static_cast<std::uintptr_t>(end) * cells.nb[1]) / page * page;
  // Refused, for example, where memory is locked: then it stays.
  if (from < to) (void)madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
#endif
}

}  // namespace squat::llama_cpp
