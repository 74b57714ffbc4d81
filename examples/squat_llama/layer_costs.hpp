// What quantizing each layer costs a model, in a file.
#pragma once

#include <squat/layer_bits.hpp>
#include <string>
#include <vector>

#include "evaluation.hpp"

namespace squat_llama {

/// By how much the model's predictions diverge more with the keys, and with the values, of one
/// layer after the other in the bits of squat::LayerCost than where everything has 8.
std::vector<squat::LayerCost> measure_layer_costs(Engine& engine, int layers,
                                                  const std::vector<std::vector<Window>>& texts,
                                                  const Protocol& protocol,
                                                  const OnProgress& on_progress = {});

void write_layer_costs(const std::string& path, const std::vector<squat::LayerCost>& costs);

/// Fails, naming the file, on one that is not of write_layer_costs().
std::vector<squat::LayerCost> read_layer_costs(const std::string& path);

}  // namespace squat_llama
