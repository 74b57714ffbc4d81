// Standard streams over memory that a caller of llama.cpp's state functions brings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <istream>
#include <ostream>
#include <streambuf>

namespace squat::llama_cpp {

inline void write_word(std::ostream& out, std::uint64_t word) {
  out.write(reinterpret_cast<const char*>(&word), sizeof word);
}
/// 0, and a stream that is not good, where the stream ends.
inline std::uint64_t read_word(std::istream& in) {
  std::uint64_t word = 0;
  in.read(reinterpret_cast<char*>(&word), sizeof word);
  return word;
}

/// Counts what is written, and keeps nothing.
class CountingBuffer : public std::streambuf {
 public:
  std::size_t count() const { return count_; }

 protected:
  int_type overflow(int_type character) override {
    ++count_;
    return traits_type::not_eof(character);
  }
  std::streamsize xsputn(const char*, std::streamsize size) override {
    count_ += static_cast<std::size_t>(size);
    return size;
  }

 private:
  std::size_t count_ = 0;
};

/// Writes to `size` bytes at `data`; more than these fail.
class WritingBuffer : public std::streambuf {
 public:
  WritingBuffer(std::uint8_t* data, std::size_t size) {
    char* begin = reinterpret_cast<char*>(data);
    setp(begin, begin + size);
  }
  std::size_t count() const { return static_cast<std::size_t>(pptr() - pbase()); }
};

/// Reads `size` bytes at `data`.
class ReadingBuffer : public std::streambuf {
 public:
  ReadingBuffer(const std::uint8_t* data, std::size_t size) {
    char* begin = const_cast<char*>(reinterpret_cast<const char*>(data));
    setg(begin, begin, begin + size);
  }
  std::size_t count() const { return static_cast<std::size_t>(gptr() - eback()); }
};

}  // namespace squat::llama_cpp
