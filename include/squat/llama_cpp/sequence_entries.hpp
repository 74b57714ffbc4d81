// The sequences of a cache as a context of llama.cpp counts them.
#pragma once

#include <llama.h>

#include <algorithm>
#include <squat/llama_cpp/attention_operator.hpp>
#include <squat/llama_cpp/recurrent_states.hpp>

namespace squat::llama_cpp {

/// How long each sequence is, and whether it can go on; keeps what layers hold of it, in the cache
/// and as states of recurrent layers, of one length.
class SequenceEntries {
 public:
  /// `limit`: tokens that a sequence may have; `total_limit`: those of all, where what a fork
  /// shares counts once. `states`: null without recurrent layers. `have_planes`: see Place.
  SequenceEntries(Cache& cache, Index limit, Index total_limit, RecurrentStates* states,
                  bool have_planes)
      : cache_(cache),
        states_(states),
        have_planes_(have_planes),
        limit_(limit),
        total_limit_(total_limit),
        entries_(static_cast<std::size_t>(cache.sequences())) {}

  Index size(llama_seq_id sequence) const { return at(sequence).size; }

  Index total() const {
    Index sum = 0;
    for (const Entry& entry : entries_) sum += entry.size;
    return sum;
  }

  llama_seq_id count() const { return static_cast<llama_seq_id>(entries_.size()); }

  /// Whether sequences have states of recurrent layers, and so do not go back.
  bool have_states() const { return states_ != nullptr; }
  /// Whether tokens have places of several dimensions.
  bool have_planes() const { return have_planes_; }

  /// Whether the tokens of a batch, each at the end of its sequence, still fit. Fails on a sequence
  /// that does not exist or cannot go on, on positions that leave gaps, and on places that go back.
  bool have_room(const std::vector<BatchToken>& batch) const {
    std::vector<Index> sizes(entries_.size());
    std::transform(entries_.begin(), entries_.end(), sizes.begin(),
                   [](const Entry& entry) { return entry.size; });
    std::vector<Place> last;
    for (const Entry& entry : entries_)
      last.push_back(entry.places.empty() ? Place{-1, 0, 0} : entry.places.back());
    Index total = 0;
    for (const Entry& entry : entries_) total += entry.size - entry.shared;
    for (const BatchToken& token : batch) {
      ++total;
      token.for_sequences([&](llama_seq_id sequence) {
        require(at(sequence).broken.empty(), "sequence ", sequence, ": ", at(sequence).broken,
                " (remove the sequence to use it again)");
        Index& next = sizes[static_cast<std::size_t>(sequence)];
        if (have_planes_)
          go_behind(last[static_cast<std::size_t>(sequence)], token.place, sequence);
        else
          require(token.place.position == next, "a token of sequence ", sequence, " has position ",
                  token.place.position, "; it must be ", next, ": positions have no gaps");
        ++next;
      });
    }
    return total <= total_limit_ &&
           std::all_of(sizes.begin(), sizes.end(), [&](Index size) { return size <= limit_; });
  }

  void clear() {
    cache_.clear();
    if (have_states()) states_->clear();
    for (Entry& entry : entries_) entry = Entry();
  }

  /// From now on `sequence` fails, saying why, until it is removed: for calls of llama.h that have
  /// no other way to say that they did not do what they were asked for.
  void break_off(llama_seq_id sequence, const std::string& why) { at(sequence).broken = why; }

 protected:
  struct Entry {
    Index size = 0;
    Index shared = 0;  // of them, those that came from another sequence
    std::string broken;
    TokenPlaces places;  // with planes; else token i is at position i
  };

  Entry& at(llama_seq_id sequence) {
    check(sequence);
    return entries_[static_cast<std::size_t>(sequence)];
  }
  const Entry& at(llama_seq_id sequence) const {
    check(sequence);
    return entries_[static_cast<std::size_t>(sequence)];
  }
  void check(llama_seq_id sequence) const {
    require(sequence >= 0 && sequence < count(), "sequence is ", sequence,
            "; the context has sequences 0 to ", count() - 1);
  }

  /// How many tokens are before `position`, where as many as that would fit.
  Index before(const Entry& entry, llama_pos position) const {
    return have_planes_ ? entry.places.before(position) : Index{position};
  }

  static CallOptions options(llama_seq_id sequence) {
    CallOptions options;
    options.sequence = sequence;
    return options;
  }

  /// Cuts the layers of a sequence to `size` tokens; false where windows do not allow it. Layers
  /// may have more tokens than the sequence, where a batch failed.
  bool cut(llama_seq_id sequence, Index size) {
    try {
      cache_.truncate(size, options(sequence));
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  /// Puts `place` in place of `last`. Fails unless it is behind.
  static void go_behind(Place& last, const Place& place, llama_seq_id sequence) {
    if (!(last < place))
      fail("a token of sequence " + std::to_string(sequence) + " has " + words(place) +
           "; it must be behind " + words(last));
    last = place;
  }
  static std::string words(const Place& place) {
    return "position " + std::to_string(place.position) + ", row " + std::to_string(place.row) +
           ", column " + std::to_string(place.column);
  }

  bool empty(llama_seq_id sequence) {
    at(sequence) = Entry();
    if (have_states()) states_->remove(sequence);
    return cut(sequence, 0);
  }

  Cache& cache_;
  RecurrentStates* states_;
  bool have_planes_;
  Index limit_;
  Index total_limit_;
  std::vector<Entry> entries_;
};

}  // namespace squat::llama_cpp
