// Caches as the bytes of a file, and files that were tampered with.
#pragma once

#include <cstring>
#include <squat/squat.hpp>
#include <sstream>
#include <string>

namespace squat::testing {

using namespace detail;

template <class Cache>
std::string saved(const Cache& cache) {
  std::ostringstream out;
  cache.save(out);
  return out.str();
}

template <class Cache>
std::string saved(const Cache& cache, Index sequence) {
  std::ostringstream out;
  cache.save(out, sequence);
  return out.str();
}

template <class Cache>
void load(Cache& cache, const std::string& bytes) {
  std::istringstream in(bytes);
  cache.load(in);
}

template <class Cache>
void load(Cache& cache, const std::string& bytes, Index sequence) {
  std::istringstream in(bytes);
  cache.load(in, sequence);
}

/// A file with the checksum that its other bytes ask for.
inline std::string repaired(std::string bytes) {
  if (bytes.size() < 8 || bytes.size() % 8 != 0) return bytes;
  Checksum checksum;
  for (std::size_t i = 0; i + 8 < bytes.size(); i += 8)
    checksum.add(detail::from_little_endian<std::uint64_t>(
        reinterpret_cast<const unsigned char*>(bytes.data()) + i));
  detail::to_little_endian(checksum.value(),
                           reinterpret_cast<unsigned char*>(&bytes[bytes.size() - 8]));
  return bytes;
}

}  // namespace squat::testing
