#include "layer_costs.hpp"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "require.hpp"

namespace squat_llama {

std::vector<squat::LayerCost> measure_layer_costs(Engine& engine, int layers,
                                                  const std::vector<std::vector<Window>>& texts,
                                                  const Protocol& protocol,
                                                  const OnProgress& on_progress) {
  using squat::LayerCost;
  std::vector<CacheSpec> caches = {{"8 bits", SquatSpec{squat::Config::recommended()}}};
  squat::Config& all = std::get<SquatSpec>(caches.front().format).config;
  all.key_bits = all.value_bits = 8;
  for (int layer = 0; layer < layers; ++layer)
    for (const bool keys : {true, false}) {
      SquatSpec spec{squat::Config::recommended()};
      spec.config.layer_bits.assign(static_cast<std::size_t>(layers), {8, 8});
      squat::LayerBits& own = spec.config.layer_bits[static_cast<std::size_t>(layer)];
      if (keys)
        own.keys = LayerCost::key_bits;
      else
        own.values = LayerCost::value_bits;
      const std::string name = keys ? "keys" : "values";
      caches.push_back({name + " of layer " + std::to_string(layer), spec});
    }
  const std::vector<CacheResult> results = evaluate(engine, caches, texts, protocol, on_progress);
  std::vector<LayerCost> costs;
  const auto cost = [&](std::size_t i) {
    return std::max(results[i].quality.mean_divergence() - results[0].quality.mean_divergence(),
                    0.0);
  };
  for (std::size_t i = 1; i < results.size(); i += 2) costs.push_back({cost(i), cost(i + 1)});
  return costs;
}

void write_layer_costs(const std::string& path, const std::vector<squat::LayerCost>& costs) {
  nlohmann::ordered_json layers;
  for (const squat::LayerCost& cost : costs)
    layers.push_back({{"keys", cost.keys}, {"values", cost.values}});
  std::ofstream file(path);
  file << nlohmann::ordered_json{{"layer_costs", layers}}.dump(1) << "\n";
  require(file.good(), "cannot write ", path);
}

std::vector<squat::LayerCost> read_layer_costs(const std::string& path) {
  std::ifstream file(path);
  require(file.good(), "cannot open ", path);
  try {
    const nlohmann::json all = nlohmann::json::parse(file);
    std::vector<squat::LayerCost> costs;
    for (const nlohmann::json& layer : all.at("layer_costs"))
      costs.push_back({layer.at("keys").get<double>(), layer.at("values").get<double>()});
    return costs;
  } catch (const nlohmann::json::exception& error) {
    fail(path + " does not hold layer costs: " + error.what());
  }
}

}  // namespace squat_llama
