// What quantizing each layer of a model costs.
#pragma once

#include <squat/layer_bits.hpp>
#include <string>
#include <vector>

#include "evaluation.hpp"

namespace squat_llama {

/// The divergence of predictions when one layer alone has keys of LayerCost::key_bits or values of
/// LayerCost::value_bits, and everything else 8 bits.
std::vector<squat::LayerCost> measure_layer_costs(const Model& model,
                                                  const std::vector<std::vector<Window>>& texts,
                                                  const Protocol& protocol,
                                                  const OnProgress& on_progress = {});

/// Writes what squat_preload::read_layer_costs() reads.
void write_layer_costs(const std::string& path, const std::vector<squat::LayerCost>& costs);

}  // namespace squat_llama
