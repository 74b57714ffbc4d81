// What llama.cpp's memory functions do to the sequences of a cache.
#pragma once

#include <llama.h>

#include <algorithm>
#include <istream>
#include <ostream>
#include <squat/llama_cpp/sequence_entries.hpp>

namespace squat::llama_cpp {

/// The sequences of a cache by position, as llama.h's llama_memory_* and llama_state_* see them. A
/// sequence has positions 0 to size - 1, of which some may be removed, or the places of its tokens.
/// With recurrent layers it also has their states after its last token, and cannot go back.
class Sequences : public SequenceEntries {
 public:
  Sequences(Cache& cache, Index limit, Index total_limit, RecurrentStates* states = nullptr,
            bool have_planes = false)
      : SequenceEntries(cache, limit, total_limit, states, have_planes) {}

  /// Tokens [0, done) of a batch are in all layers of the cache. Cuts off what only some layers
  /// have taken in of the rest, if there is a rest. Where that cannot be, since a window has
  /// dropped what remains would see, or recurrent layers have gone on, a sequence is empty then.
  /// Returns words on these, "" for none.
  std::string took(const std::vector<BatchToken>& batch, Index done) {
    for (Index i = 0; i < done; ++i) {
      const BatchToken& token = batch[static_cast<std::size_t>(i)];
      token.for_sequences([&](llama_seq_id sequence) {
        Entry& entry = at(sequence);
        // What begins a sequence and is another's, too, counts once.
        if (sequence != token.sequence && entry.shared == entry.size) ++entry.shared;
        ++entry.size;
        if (have_planes_) entry.places.push_back(token.place);
      });
    }
    if (done == static_cast<Index>(batch.size())) return "";
    std::string lost;
    for (const BatchToken& token : batch)
      token.for_sequences([&](llama_seq_id sequence) {
        if (!have_states() && cut(sequence, size(sequence))) return;
        const std::string name = " " + std::to_string(sequence);
        if (lost.find(name) == std::string::npos) lost += name;
        empty(sequence);
      });
    if (lost.empty()) return "";
    return std::string("the batch failed, and ") +
           (have_states() ? "recurrent layers do not go back"
                          : "windows have dropped what is needed to go back") +
           " in sequence" + lost + ", which is empty now";
  }

  /// Removes positions [begin, end) (negative: from the first, to the last). Returns false,
  /// changing nothing, where that goes back further than windows or recurrent layers allow.
  bool remove(llama_seq_id sequence, llama_pos begin, llama_pos end) {
    Entry& entry = at(sequence);
    const Index first = before(entry, std::max(begin, llama_pos{0}));
    const Index last = end < 0 ? entry.size : before(entry, end);
    if (first == 0 && last >= entry.size) {
      return empty(sequence);
    }
    if (first >= entry.size) return true;
    const Index shared = std::min(entry.shared, first);
    if (last < entry.size) {
      if (last <= first) return true;
      cache_.erase({first, last}, options(sequence));
    } else {
      if (have_states() || !cut(sequence, first)) return false;
      entry.size = first;
      entry.places.truncate(first);
    }
    entry.shared = shared;
    return true;
  }

  /// Whether shift() can move positions. Recurrent layers remember where tokens were.
  bool can_shift() const {
    if (have_states() || have_planes_) return false;
    const ModelShape& shape = cache_.shape();
    for (Index layer = 0; layer < shape.layers; ++layer) {
      const LayerShape& one = shape.layer(layer);
      if (!one.rope.is_known() || one.window > 0 || one.chunk > 0) return false;
    }
    return true;
  }

  /// Moves positions [begin, end) (negative: from the first, to the last) by `delta`. Fails as
  /// SQuatCache::shift does.
  void shift(llama_seq_id sequence, llama_pos begin, llama_pos end, llama_pos delta) {
    require(!have_states(), "the model has recurrent layers, which move no tokens");
    require(!have_planes_, "tokens have positions of several dimensions, and do not move");
    Entry& entry = at(sequence);
    const Index first = std::max<Index>(begin, 0);
    const Index last = end < 0 ? entry.size : std::min<Index>(end, entry.size);
    if (first >= last) return;
    cache_.shift({first, last}, delta, options(sequence));
    if (last == entry.size) entry.size += delta;
    entry.shared = std::min(entry.shared, std::min(first, first + delta));
  }

  /// Makes the positions [begin, end) of `from` those of `to` as well. Fails, changing nothing,
  /// unless they begin with the first and `to` is empty; what cannot be cut off fails, too.
  void copy(llama_seq_id from, llama_seq_id to, llama_pos begin, llama_pos end) {
    const Entry& source = at(from);
    Entry& target = at(to);
    if (from == to) return;
    const Index size = end < 0 ? source.size : std::min(before(source, end), source.size);
    require(begin <= 0, "positions ", begin, " to ", size - 1, " of sequence ", from,
            " cannot become sequence ", to, ": a copy must begin with position 0");
    require(target.size == 0, "sequence ", from, " cannot be copied to sequence ", to,
            ", which has ", target.size, " tokens: it must be empty");
    require(source.broken.empty(), "sequence ", from, " cannot be copied: ", source.broken);
    require(!have_states() || size == source.size, "sequence ", from,
            " cannot be copied up to position ", size - 1,
            ": recurrent layers have the state after position ", source.size - 1, " alone");
    cache_.fork(from, to);
    if (!cut(to, size)) {
      cut(to, 0);
      fail("sequence " + std::to_string(from) + " cannot be copied up to position " +
           std::to_string(size - 1) + ": its windows have dropped what that token sees");
    }
    if (have_states()) states_->copy(from, to);
    target.size = target.shared = size;
    target.places = source.places;
    target.places.truncate(size);
  }

  /// The first position that all layers hold, or -1 for an empty sequence. Recurrent layers hold
  /// the last.
  llama_pos min_position(llama_seq_id sequence) const {
    if (size(sequence) == 0) return -1;
    if (have_states()) return max_position(sequence);
    Index first = 0;
    for (Index layer = 0; layer < cache_.shape().layers; ++layer)
      first = std::max(first, cache_.first(layer, options(sequence)));
    return have_planes_ ? at(sequence).places[first].position : static_cast<llama_pos>(first);
  }
  llama_pos max_position(llama_seq_id sequence) const {
    if (have_planes_ && size(sequence) > 0) return at(sequence).places.back().position;
    return static_cast<llama_pos>(size(sequence)) - 1;
  }

  /// Writes `sequence`: uint64 size, then, unless it is 0, places (TokenPlaces) where there are
  /// planes, the cache's own format (SnapshotFormat) and states of recurrent layers.
  void save(std::ostream& out, llama_seq_id sequence) const {
    write_entry(out, at(sequence));
    if (size(sequence) > 0) cache_.save(out, sequence);
    if (size(sequence) > 0 && have_states()) states_->save(out, sequence);
    require(out.good(), "the state of sequence ", sequence, " could not be written");
  }

  /// Puts what save() wrote in place of `sequence`. Fails as SQuatCache::load does, or where the
  /// sequence would be longer than it may be.
  void load(std::istream& in, llama_seq_id sequence) {
    Entry& entry = at(sequence);
    Entry read = read_entry(in);
    if (read.size == 0) {
      empty(sequence);
      return;
    }
    cache_.load(in, sequence);
    entry = std::move(read);
    expect_size(sequence);
    if (have_states()) read_states(in, sequence);
  }

  /// Writes the states of recurrent layers alone: uint64 size, then RecurrentStates' format.
  void save_states(std::ostream& out, llama_seq_id sequence) const {
    write_number(out, size(sequence));
    if (size(sequence) > 0) states_->save(out, sequence);
    require(out.good(), "the states of sequence ", sequence, " could not be written");
  }

  /// Goes back to where save_states() wrote the states of the same text: cuts off what came after.
  /// Fails, changing nothing, where the sequence is shorter; empties it where states are damaged.
  void load_states(std::istream& in, llama_seq_id sequence) {
    const Index tokens = read_size(in);
    require(tokens <= size(sequence), "the states are those after ", tokens,
            " tokens; the sequence has ", size(sequence));
    if (tokens == 0)
      empty(sequence);
    else
      read_states(in, sequence);
    Entry& entry = at(sequence);
    cut(sequence, tokens);
    entry.size = tokens;
    entry.places.truncate(tokens);
    entry.shared = std::min(entry.shared, tokens);
  }

  /// Writes all sequences: uint64 number of sequences, the uint64 size and places of each, then the
  /// cache's own format, and states of recurrent layers of each that is not empty.
  void save(std::ostream& out) const {
    write_number(out, cache_.sequences());
    for (const Entry& entry : entries_) write_entry(out, entry);
    cache_.save(out);
    for (llama_seq_id s = 0; have_states() && s < count(); ++s)
      if (size(s) > 0) states_->save(out, s);
    require(out.good(), "the state could not be written");
  }

  /// Puts what save() wrote in place of all sequences, which are empty where that fails in the end.
  void load(std::istream& in) {
    const Index found = read_number(in);
    require(found == count(), "the state has ", found, " sequences; the context has ", count());
    std::vector<Entry> entries(entries_.size());
    for (Entry& entry : entries) entry = read_entry(in);
    cache_.load(in);
    entries_ = std::move(entries);
    if (have_states()) states_->clear();
    try {
      for (llama_seq_id s = 0; s < count(); ++s) {
        expect_size(s);
        if (have_states() && size(s) > 0) read_states(in, s);
      }
    } catch (...) {
      clear();
      throw;
    }
  }

 private:
  static void write_number(std::ostream& out, Index number) {
    write_word(out, static_cast<std::uint64_t>(number));
  }
  static Index read_number(std::istream& in) {
    const std::uint64_t value = read_word(in);
    require(in.good() && value <= std::uint64_t{1} << 48, "the state begins with no sizes");
    return static_cast<Index>(value);
  }
  Index read_size(std::istream& in) const {
    const Index tokens = read_number(in);
    require(tokens <= limit_, "the state has ", tokens, " tokens; a sequence may have ", limit_);
    return tokens;
  }

  void write_entry(std::ostream& out, const Entry& entry) const {
    write_number(out, entry.size);
    if (have_planes_ && entry.size > 0) entry.places.save(out);
  }
  Entry read_entry(std::istream& in) const {
    Entry entry;
    entry.size = read_size(in);
    if (have_planes_ && entry.size > 0) entry.places = TokenPlaces::load(in, entry.size);
    return entry;
  }

  /// Fails, emptying the sequence, unless all layers have as many tokens as it says.
  void expect_size(llama_seq_id sequence) {
    Entry& entry = at(sequence);
    for (Index layer = 0; layer < cache_.shape().layers; ++layer) {
      const Index found = cache_.size(layer, options(sequence)), expected = entry.size;
      if (found == expected) continue;
      empty(sequence);
      fail("the state says that sequence " + std::to_string(sequence) + " has " +
           std::to_string(expected) + " tokens; layer " + std::to_string(layer) + " has " +
           std::to_string(found));
    }
  }

  void read_states(std::istream& in, llama_seq_id sequence) {
    try {
      states_->load(in, sequence);
    } catch (...) {
      empty(sequence);
      throw;
    }
  }
};

}  // namespace squat::llama_cpp
