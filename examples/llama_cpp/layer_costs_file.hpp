// A file that says what quantizing each layer of a model costs, as squat_llama layer-costs writes
// it.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <squat/error.hpp>
#include <squat/layer_bits.hpp>
#include <string>
#include <vector>

namespace squat_preload {

/// {"layer_costs": [{"keys": cost, "values": cost}, ...]}, an entry for each layer. Fails, naming
/// the file, on another one.
inline std::vector<squat::LayerCost> read_layer_costs(const std::string& path) {
  std::ifstream file(path);
  squat::require(file.good(), "cannot open ", path);
  try {
    const nlohmann::json all = nlohmann::json::parse(file);
    std::vector<squat::LayerCost> costs;
    for (const nlohmann::json& layer : all.at("layer_costs"))
      costs.push_back({layer.at("keys").get<double>(), layer.at("values").get<double>()});
    return costs;
  } catch (const nlohmann::json::exception& error) {
    squat::fail(path + " does not hold layer costs: " + error.what());
  }
}

}  // namespace squat_preload
