// The states that a model hands to attention.
#pragma once

#include <functional>
#include <squat/matrix.hpp>
#include <vector>

#include "model.hpp"

namespace squat_llama {

/// Rows are tokens; columns are heads, one after another.
struct LayerStates {
  squat::Matrix<float> queries;  ///< after position embedding
  squat::Matrix<float> keys;     ///< after position embedding
  squat::Matrix<float> values;
};

/// Reads `tokens` in one pass, with keys and values in half precision, and calls `on_layer` with
/// the states of each layer, in order. What it throws is thrown on, once the pass is over.
void for_each_layer(const Model& model, const std::vector<Token>& tokens,
                    const std::function<void(int layer, const LayerStates&)>& on_layer);

}  // namespace squat_llama
