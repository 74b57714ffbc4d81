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
  /// shares counts once. `states`: null without recurrent layers.
  SequenceEntries(Cache& cache, Index limit, Index total_limit, RecurrentStates* states)
      : cache_(cache),
        states_(states),
        limit_(limit),
        total_limit_(total_limit),
        entries_(static_cast<std::size_t>(cache.sequences())) {}

  Index size(llama_seq_id sequence) const { return at(sequence).size; }

  Index total() const {
    Index sum = 0;
    for (const Entry& entry : entries_) sum += entry.size;
    return sum;
  }

  /// Whether sequences have states of recurrent layers, and so do not go back.
  bool have_states() const { return states_ != nullptr; }

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
  llama_seq_id count() const { return static_cast<llama_seq_id>(entries_.size()); }

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

  bool empty(llama_seq_id sequence) {
    at(sequence) = Entry();
    if (have_states()) states_->remove(sequence);
    return cut(sequence, 0);
  }

  Cache& cache_;
  RecurrentStates* states_;
  Index limit_;
  Index total_limit_;
  std::vector<Entry> entries_;
};

}  // namespace squat::llama_cpp
