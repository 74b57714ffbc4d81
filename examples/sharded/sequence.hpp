// The sequence that the ranks share.
#pragma once

#include "../quickstart/layer_states.hpp"

namespace sharded {

using squat::Index;
using squat::Matrix;

/// Queries, keys and values of consecutive tokens.
struct Tokens {
  Matrix<float> queries, keys, values;
};

/// Layer 20 of a real model (examples/data): its prompt, `repeats` times, and the tokens after it.
class Sequence {
 public:
  explicit Sequence(Index repeats)
      : states_(quickstart::read_layer20(SQUAT_EXAMPLES_DIR "/data")), repeats_(repeats) {}

  const squat::ModelShape& shape() const { return states_.shape; }
  Index prompt_tokens() const { return repeats_ * states_.prompt_tokens; }
  Index size() const { return prompt_tokens() + states_.held_out_tokens(); }

  Tokens tokens(Index first, Index count) const {
    std::vector<Index> rows;
    for (Index token = first; token < first + count; ++token)
      rows.push_back(token < prompt_tokens() ? token % states_.prompt_tokens
                                             : token - prompt_tokens() + states_.prompt_tokens);
    return {states_.queries(rows, Eigen::all), states_.keys(rows, Eigen::all),
            states_.values(rows, Eigen::all)};
  }

  double largest_value() const { return states_.values.cwiseAbs().maxCoeff(); }

 private:
  quickstart::LayerStates states_;
  Index repeats_;
};

}  // namespace sharded
