// Numbers to and from a stream: little-endian on every machine, under a checksum.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <istream>
#include <ostream>
#include <squat/error.hpp>
#include <squat/matrix.hpp>

namespace squat::detail {

/// What ends a file: h of all 64-bit words w before it, h = (h ^ w) * 1099511628211 and then
/// h = h ^ (h >> 32), from 14695981039346656037 on. FNV-1a by words, stirred so that high bits
/// count as low ones do. It finds whatever is altered by accident, and nothing that is altered on
/// purpose.
class Checksum {
 public:
  void add(std::uint64_t word) {
    value_ = (value_ ^ word) * 1099511628211u;
    value_ ^= value_ >> 32;
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 14695981039346656037u;
};

/// Unsigned integers by their size in bytes.
template <class Use>
void with_unsigned(Index size, const Use& use) {
  if (size == 1) return use(std::uint8_t{});
  if (size == 2) return use(std::uint16_t{});
  if (size == 4) return use(std::uint32_t{});
  use(std::uint64_t{});
}

/// Compilers make one load of it, on a big-endian machine a reversed one.
template <class Unsigned>
Unsigned from_little_endian(const unsigned char* bytes) {
  std::uint64_t x = 0;
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) x |= std::uint64_t{bytes[i]} << (8 * i);
  return static_cast<Unsigned>(x);
}

template <class Unsigned>
void to_little_endian(Unsigned x, unsigned char* bytes) {
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i)
    bytes[i] = static_cast<unsigned char>(std::uint64_t{x} >> (8 * i));
}

/// A part of a file, as it goes through.
using FileChunk = std::array<unsigned char, 4096>;

/// Writes a file that consists of 64-bit words: whatever is smaller comes in arrays that fill some.
class ByteWriter {
 public:
  explicit ByteWriter(std::ostream& out) : out_(out) {}

  void number(std::uint64_t x) { array(&x, 1); }
  void number(Index x) { number(static_cast<std::uint64_t>(x)); }
  void number(double x) { array(&x, 1); }

  /// `count` numbers of 1, 2, 4 or 8 bytes; a multiple of 8 bytes together.
  template <class Number>
  void array(const Number* data, Index count) {
    static_assert(std::is_trivially_copyable_v<Number>);
    array(data, count, sizeof(Number));
  }
  /// `count` numbers of `size` bytes, 1, 2, 4 or 8; a multiple of 8 bytes together.
  void array(const void* data, Index count, Index size) {
    const auto* source = static_cast<const unsigned char*>(data);
    const Index bytes = count * size;
    for (Index done = 0; done < bytes;) {
      const Index here = std::min(bytes - done, static_cast<Index>(chunk_.size()));
      with_unsigned(size, [&](auto number) {
        for (Index i = 0; i < here; i += size) {
          std::memcpy(&number, source + done + i, sizeof number);
          to_little_endian(number, chunk_.data() + i);
        }
      });
      for (Index i = 0; i < here; i += 8)
        checksum_.add(from_little_endian<std::uint64_t>(chunk_.data() + i));
      out_.write(reinterpret_cast<const char*>(chunk_.data()), static_cast<std::streamsize>(here));
      done += here;
    }
    require(out_.good(), "the file could not be written");
  }

  /// Ends the file. Like every write, it fails where the stream does.
  void finish() {
    number(checksum_.value());
    out_.flush();
    require(out_.good(), "the file could not be written");
  }

 private:
  std::ostream& out_;
  Checksum checksum_;
  FileChunk chunk_;
};

/// Reads what ByteWriter wrote, and nothing behind its end. Fails where the stream ends too early.
class ByteReader {
 public:
  explicit ByteReader(std::istream& in) : in_(in) {}

  std::uint64_t number() { return next<std::uint64_t>(); }
  double real() { return next<double>(); }
  /// A number from 0 to `most`.
  Index count(const char* name, Index most) {
    const std::uint64_t x = number();
    require(x <= static_cast<std::uint64_t>(most), "the file has ", name, " = ", x, "; it can be ",
            most, " at most");
    return static_cast<Index>(x);
  }

  /// As ByteWriter::array().
  template <class Number>
  void array(Number* data, Index count) {
    static_assert(std::is_trivially_copyable_v<Number>);
    array(data, count, sizeof(Number));
  }
  void array(void* data, Index count, Index size) {
    auto* target = static_cast<unsigned char*>(data);
    const Index bytes = count * size;
    for (Index done = 0; done < bytes;) {
      const Index here = std::min(bytes - done, static_cast<Index>(chunk_.size()));
      in_.read(reinterpret_cast<char*>(chunk_.data()), static_cast<std::streamsize>(here));
      require(in_.gcount() == static_cast<std::streamsize>(here), "the file is cut short");
      for (Index i = 0; i < here; i += 8)
        checksum_.add(from_little_endian<std::uint64_t>(chunk_.data() + i));
      with_unsigned(size, [&](auto number) {
        for (Index i = 0; i < here; i += size) {
          number = from_little_endian<decltype(number)>(chunk_.data() + i);
          std::memcpy(target + done + i, &number, sizeof number);
        }
      });
      done += here;
    }
  }

  /// Fails unless the checksum that follows is that of all that was read.
  void finish() {
    const std::uint64_t computed = checksum_.value();
    require(number() == computed, "the file's checksum does not match: it was altered");
  }

 private:
  template <class Number>
  Number next() {
    Number x;
    array(&x, 1);
    return x;
  }

  std::istream& in_;
  Checksum checksum_;
  FileChunk chunk_;
};

}  // namespace squat::detail
