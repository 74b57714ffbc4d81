// Files made of what a fuzzer comes up with: it need not find headers and checksums by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../saved_cache.hpp"

namespace squat::testing {

/// `header`, then the input filled up to whole words, then the checksum that both ask for.
inline std::string file_of(std::string header, const std::uint8_t* data, std::size_t size) {
  header.append(reinterpret_cast<const char*>(data), size);
  header.resize((header.size() + 7) / 8 * 8 + 8);
  return repaired(std::move(header));
}

/// Ends the run, so that the fuzzer reports its input.
inline void expect(bool condition) {
  if (!condition) __builtin_trap();
}

}  // namespace squat::testing
