// The packed tokens of all kv heads over one token range.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <squat/matrix.hpp>

namespace squat {

/// Zeroed bytes on a cache line boundary.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(Index size)
      : data_(static_cast<std::byte*>(
            ::operator new (static_cast<std::size_t>(size), std::align_val_t{alignment}))),
        size_(size) {
    std::fill_n(data_.get(), size, std::byte{0});
  }

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  Index size() const { return size_; }

 private:
  static constexpr std::size_t alignment = 64;
  struct Free {
    void operator()(std::byte* data) const {
      ::operator delete (data, std::align_val_t{alignment});
    }
  };
  std::unique_ptr<std::byte, Free> data_;
  Index size_ = 0;
};

/// The key record and the value record of every kv head for one range of tokens. Keys arrive as a
/// whole block, values one by one; truncation leaves the first `tokens` of a block, whose codes
/// stay what they are, and the next block starts a new row. Values follow the rows of the keys.
struct BlockRow {
  static constexpr Index max_tokens = 128;

  AlignedBytes keys;    ///< [kv_heads] KeyBlock records
  AlignedBytes values;  ///< [kv_heads] ValueBlock records; empty until the first value arrives
  Index tokens = 0;     ///< key tokens that count
  Index value_tokens = 0;
  std::uint32_t padding[max_tokens / 32] = {};  ///< bit per token
  bool has_padding = false;

  bool is_valid(Index token) const { return !(padding[token / 32] >> (token % 32) & 1); }
  void set_padding(Index token) {
    padding[token / 32] |= std::uint32_t{1} << (token % 32);
    has_padding = true;
  }
};

}  // namespace squat
