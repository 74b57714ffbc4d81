// What recurrent layers keep of a text, beside a cache of keys and values.
#pragma once

#include <llama.h>

#include <algorithm>
#include <squat/detail/io/byte_stream.hpp>
#include <squat/llama_cpp/batch_rows.hpp>
#include <squat/llama_cpp/buffer_streams.hpp>
#include <squat/llama_cpp/functions.hpp>
#include <string>
#include <vector>

namespace squat::llama_cpp {

/// The states of recurrent layers, which stay in llama.cpp's memory: of each sequence the one after
/// its last token. llama.cpp lets go of the cells of all other tokens, not of that one's: its cell
/// remains beside the state, and counts for nothing. (Behind an image with M-RoPE none does.)
class RecurrentStates {
 public:
  RecurrentStates(llama_context* context, const Functions& llama)
      : context_(context), llama_(llama) {}

  /// The cells that remain. What several sequences share is there for each.
  const std::vector<CellToken>& cells() const { return cells_; }

  /// After a batch: `taken` are its tokens and their cells.
  void keep_last(const std::vector<CellToken>& taken) {
    for (auto last = taken.rbegin(); last != taken.rend(); ++last) {
      const llama_seq_id sequence = last->token.sequence;
      const bool is_kept = std::any_of(taken.rbegin(), last, [&](const CellToken& later) {
        return later.token.sequence == sequence;
      });
      if (is_kept) continue;
      const llama_pos position = last->token.place.position;
      const auto is_there = [&](const CellToken& other) {
        return other.token.sequence == sequence && other.token.place.position == position;
      };
      const bool is_in_image = std::any_of(last + 1, taken.rend(), is_there) ||
                               std::any_of(cells_.begin(), cells_.end(), is_there);
      forget_cell(sequence);
      if (is_in_image) {  // all of which is at that position: no cell remains
        put(get(sequence), sequence);
        continue;
      }
      if (position > 0)
        require(llama_.memory_seq_rm(memory(), sequence, 0, position),
                "llama.cpp does not remove the positions before ", position, " of sequence ",
                sequence);
      cells_.push_back(*last);
    }
  }

  void remove(llama_seq_id sequence) {
    llama_.memory_seq_rm(memory(), sequence, -1, -1);
    forget_cell(sequence);
  }

  void clear() {
    llama_.memory_clear(memory(), false);
    cells_.clear();
  }

  /// `to` has none.
  void copy(llama_seq_id from, llama_seq_id to) {
    llama_.memory_seq_cp(memory(), from, to, -1, -1);
    const auto cell = find(from);
    if (cell == cells_.end()) return;
    CellToken copied = *cell;
    copied.token.sequence = to;
    cells_.push_back(copied);
  }

  /// Writes uint64 bytes; llama.cpp's own format; uint64 checksum of it.
  void save(std::ostream& out, llama_seq_id sequence) const {
    const std::string state = get(sequence);
    write_word(out, state.size());
    out.write(state.data(), static_cast<std::streamsize>(state.size()));
    write_word(out, checksum(state));
  }

  /// Puts what save() wrote in place of the states of `sequence`, whose cell goes. Fails on a
  /// damaged state, and on one of another model; the sequence has none then.
  void load(std::istream& in, llama_seq_id sequence) {
    remove(sequence);
    const std::uint64_t size = read_word(in);
    require(in.good() && size < std::uint64_t{1} << 40,
            "the states of recurrent layers are cut off");
    std::string state;
    while (state.size() < size && in.good()) {  // a wrong size takes no memory
      const std::size_t begin = state.size();
      state.resize(std::min<std::size_t>(size, begin + (std::size_t{1} << 24)));
      in.read(&state[begin], static_cast<std::streamsize>(state.size() - begin));
    }
    const std::uint64_t sum = read_word(in);
    require(in.good() && sum == checksum(state), "the states of recurrent layers are damaged");
    put(state, sequence);
  }

 private:
  /// In llama.cpp's own format.
  std::string get(llama_seq_id sequence) const {
    std::string state(
        llama_.state_seq_get_size_ext(context_, sequence, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY),
        '\0');
    const std::size_t written =
        llama_.state_seq_get_data_ext(context_, reinterpret_cast<std::uint8_t*>(state.data()),
                                      state.size(), sequence, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    require(written == state.size(), "llama.cpp wrote ", written, " of ", state.size(),
            " bytes of the states of recurrent layers");
    return state;
  }
  /// In place of what the sequence has, whose cell goes.
  void put(const std::string& state, llama_seq_id sequence) {
    remove(sequence);
    const std::size_t read =
        llama_.state_seq_set_data_ext(context_, reinterpret_cast<const std::uint8_t*>(state.data()),
                                      state.size(), sequence, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    if (read == state.size()) return;
    remove(sequence);
    fail("the states of recurrent layers are of another model");
  }

  llama_memory_t memory() const { return llama_get_memory(context_); }

  std::vector<CellToken>::const_iterator find(llama_seq_id sequence) const {
    return std::find_if(cells_.begin(), cells_.end(),
                        [&](const CellToken& cell) { return cell.token.sequence == sequence; });
  }
  void forget_cell(llama_seq_id sequence) {
    const auto cell = find(sequence);
    if (cell != cells_.end()) cells_.erase(cell);
  }

  static std::uint64_t checksum(const std::string& state) {
    squat::detail::Checksum checksum;
    for (const char byte : state) checksum.add(static_cast<unsigned char>(byte));
    return checksum.value();
  }

  llama_context* context_;
  const Functions& llama_;
  std::vector<CellToken> cells_;
};

}  // namespace squat::llama_cpp
