// The tokens of llama.h's batches.
#pragma once

#include <llama.h>

#include <algorithm>
#include <squat/llama_cpp/sequences.hpp>
#include <vector>

namespace squat::llama_cpp {

/// The tokens of a batch, each of which goes on with its sequences.
struct BatchTokens {
  std::vector<BatchToken> tokens;
  std::vector<llama_pos> positions;  ///< of each, where the batch has none
};

/// Reads `batch`. Fails on one that llama.cpp could not read either.
inline BatchTokens read_batch(const llama_batch& batch, const Sequences& sequences) {
  require(batch.n_tokens > 0, "batch.n_tokens is ", batch.n_tokens, "; it must be at least 1");
  const bool in_planes = sequences.have_planes() && batch.token == nullptr;
  require(!in_planes || batch.pos != nullptr,
          "batch.pos is null; embeddings of a model with M-RoPE need positions [4, n_tokens]");
  BatchTokens read;
  std::vector<llama_pos> next(static_cast<std::size_t>(sequences.count()), -1);
  for (std::int32_t i = 0; i < batch.n_tokens; ++i) {
    BatchToken& token = read.tokens.emplace_back();
    require(batch.n_seq_id == nullptr || batch.n_seq_id[i] > 0, "token ", i,
            " of the batch belongs to no sequence");
    if (batch.seq_id != nullptr) {
      const llama_seq_id* all = batch.seq_id[i];
      token.sequence = all[0];
      if (batch.n_seq_id != nullptr) token.more.assign(all + 1, all + batch.n_seq_id[i]);
    }
    llama_pos position = -1;
    token.for_sequences([&](llama_seq_id sequence) {
      const llama_pos last = sequences.max_position(sequence);
      llama_pos& expected = next[static_cast<std::size_t>(sequence)];
      expected = std::max(expected, last) + 1;
      position = expected;
    });
    if (batch.pos == nullptr)
      read.positions.push_back(position);
    else
      position = batch.pos[i];
    token.place = Place::of_text(position);
    if (in_planes)
      token.place = {position, batch.pos[batch.n_tokens + i], batch.pos[2 * batch.n_tokens + i]};
  }
  return read;
}

}  // namespace squat::llama_cpp
