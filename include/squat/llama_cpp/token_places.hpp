// Where tokens stand in models whose positions have several dimensions (M-RoPE).
#pragma once

#include <llama.h>

#include <algorithm>
#include <squat/detail/io/byte_stream.hpp>
#include <squat/llama_cpp/buffer_streams.hpp>
#include <tuple>
#include <vector>

namespace squat::llama_cpp {

/// Whether each token of the model has several positions, as in Qwen2-VL.
inline bool has_planes(const llama_model* model) {
  const llama_rope_type rope = llama_model_rope_type(model);
  return rope == LLAMA_ROPE_TYPE_MROPE || rope == LLAMA_ROPE_TYPE_IMROPE;
}

/// Where a token stands. In such a model the tokens of an image are all at one position, and differ
/// by row and column, each counted from that position. A token of text has its position in all
/// three.
struct Place {
  llama_pos position = 0, row = 0, column = 0;

  static Place of_text(llama_pos position) { return {position, position, position}; }

  /// The order in which llama.cpp's causal mask has them.
  bool operator<(const Place& other) const {
    return std::tie(position, row, column) < std::tie(other.position, other.row, other.column);
  }
};

/// The places of a sequence's tokens, each behind the one before.
class TokenPlaces {
 public:
  Index size() const { return static_cast<Index>(places_.size()); }
  bool empty() const { return places_.empty(); }
  const Place& operator[](Index token) const { return places_[static_cast<std::size_t>(token)]; }
  const Place& back() const { return places_.back(); }
  void push_back(const Place& place) { places_.push_back(place); }
  void truncate(Index size) {
    places_.erase(places_.begin() + std::min(size, this->size()), places_.end());
  }

  /// How many tokens are before `position`.
  Index before(llama_pos position) const {
    const auto found = std::lower_bound(
        places_.begin(), places_.end(), position,
        [](const Place& place, llama_pos position) { return place.position < position; });
    return found - places_.begin();
  }

  /// Writes uint64 position, row, column of each; uint64 checksum of these.
  void save(std::ostream& out) const {
    squat::detail::Checksum checksum;
    for (const Place& place : places_)
      for (const llama_pos number : {place.position, place.row, place.column}) {
        const auto word = static_cast<std::uint64_t>(number);
        write_word(out, word);
        checksum.add(word);
      }
    write_word(out, checksum.value());
  }

  /// Reads what save() wrote of `count` tokens. Fails on what is damaged.
  static TokenPlaces load(std::istream& in, Index count) {
    TokenPlaces loaded;
    squat::detail::Checksum checksum;
    const auto read = [&] {
      const std::uint64_t word = read_word(in);
      checksum.add(word);
      return static_cast<llama_pos>(word);
    };
    for (Index i = 0; i < count && in.good(); ++i) {
      const llama_pos position = read(), row = read(), column = read();
      loaded.push_back({position, row, column});
    }
    const std::uint64_t sum = checksum.value();
    require(in.good() && read_word(in) == sum, "the positions of the state's tokens are damaged");
    return loaded;
  }

 private:
  std::vector<Place> places_;
};

}  // namespace squat::llama_cpp
