// The queries, keys and values that attention sees while a model reads.
#pragma once

#include <filesystem>
#include <set>
#include <vector>

#include "model.hpp"

namespace squat_llama {

/// Reads `tokens` in one pass and writes the states of `layers` (all if it is
/// empty) to layerNN.{q,k,v}.f16 in `folder`: half precision, row-major [tokens, heads, head_dim],
/// queries and keys after RoPE. Returns how many layers were written. A layer that the model does
/// not have is an error, and so is a file that cannot be written.
std::size_t write_states(const Model& model, const std::vector<Token>& tokens,
                         const std::set<int>& layers, const std::filesystem::path& folder);

}  // namespace squat_llama
