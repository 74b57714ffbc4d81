// How fast memory can be read: the bound on any attention over a cache that no cache level holds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define BENCHMARKS_X86 1
#endif

namespace benchmarks {

/// Reads `count` words once and returns a value that depends on all of them.
using ReadWords = std::uint64_t (*)(const std::uint64_t* words, std::size_t count);

// Parts of the buffer that are read side by side: the hardware prefetches each, and a single one
// does not fill the memory's queue. (Prefetching in software on top made it slower.)
constexpr std::size_t streams = 4;
constexpr std::size_t step = 16;  // words of a stream at a time, two cache lines

inline std::uint64_t read_portably(const std::uint64_t* words, std::size_t count) {
  const std::size_t part = count / streams;
  std::uint64_t folded[step] = {};
  for (std::size_t i = 0; i + step <= part; i += step)
    for (std::size_t stream = 0; stream < streams; ++stream)
      for (std::size_t lane = 0; lane < step; ++lane)
        folded[lane] ^= words[stream * part + i + lane];
  std::uint64_t all = 0;
  for (std::uint64_t word : folded) all ^= word;
  return all;
}

#ifdef BENCHMARKS_X86
__attribute__((target("avx2"))) inline std::uint64_t read_avx2(const std::uint64_t* words,
                                                               std::size_t count) {
  const std::size_t part = count / streams;
  __m256i folded[step / 4] = {};
  for (std::size_t i = 0; i + step <= part; i += step)
    for (std::size_t stream = 0; stream < streams; ++stream)
      for (std::size_t lane = 0; lane < step / 4; ++lane) {
        const std::uint64_t* here = words + stream * part + i + 4 * lane;
        folded[lane] = _mm256_xor_si256(folded[lane],
                                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(here)));
      }
  std::uint64_t all = 0;
  for (__m256i lanes : folded) {
    std::uint64_t word[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(word), lanes);
    for (std::uint64_t one : word) all ^= one;
  }
  return all;
}

__attribute__((target("avx512f"))) inline std::uint64_t read_avx512(const std::uint64_t* words,
                                                                    std::size_t count) {
  const std::size_t part = count / streams;
  __m512i folded[step / 8] = {};
  for (std::size_t i = 0; i + step <= part; i += step)
    for (std::size_t stream = 0; stream < streams; ++stream)
      for (std::size_t lane = 0; lane < step / 8; ++lane)
        folded[lane] = _mm512_xor_si512(folded[lane],
                                        _mm512_loadu_si512(words + stream * part + i + 8 * lane));
  std::uint64_t all = 0;
  for (__m512i lanes : folded) {
    std::uint64_t word[8];
    _mm512_storeu_si512(word, lanes);
    for (std::uint64_t one : word) all ^= one;
  }
  return all;
}
#endif

inline ReadWords best_read() {
#ifdef BENCHMARKS_X86
  if (__builtin_cpu_supports("avx512f")) return read_avx512;
  if (__builtin_cpu_supports("avx2")) return read_avx2;
#endif
  return read_portably;
}

/// A buffer that `threads` threads read once per read(), each its own contiguous part.
class MemoryReader {
 public:
  MemoryReader(std::size_t bytes, int threads)
      : words_(bytes / sizeof(std::uint64_t), 1), threads_(static_cast<std::size_t>(threads)) {}

  std::size_t bytes() const { return words_.size() * sizeof(std::uint64_t); }

  void read() {
    std::vector<std::thread> others;
    for (std::size_t part = 1; part < threads_; ++part)
      others.emplace_back([this, part] { read_part(part); });
    read_part(0);
    for (std::thread& other : others) other.join();
  }

 private:
  void read_part(std::size_t part) {
    const std::size_t begin = words_.size() * part / threads_;
    const std::size_t end = words_.size() * (part + 1) / threads_;
    volatile std::uint64_t sink = read_words_(words_.data() + begin, end - begin);
    static_cast<void>(sink);
  }

  std::vector<std::uint64_t> words_;
  std::size_t threads_;
  ReadWords read_words_ = best_read();
};

}  // namespace benchmarks
