#include "layer_costs.hpp"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <squat/error.hpp>

#include "squat_session.hpp"

namespace squat_llama {

std::vector<squat::LayerCost> measure_layer_costs(const Model& model,
                                                  const std::vector<std::vector<Window>>& texts,
                                                  const Protocol& protocol,
                                                  const OnProgress& on_progress) {
  using squat::LayerCost;
  const auto layers = static_cast<std::size_t>(attention_shape(model).layers);
  squat::Config config = squat::Config::recommended();
  config.shared_svd = false;
  config.layer_bits.assign(layers, {8, 8});
  std::vector<CacheSpec> caches = {{"8 bits", SquatSpec{config}}};
  for (std::size_t layer = 0; layer < layers; ++layer)
    for (const bool keys : {true, false}) {
      SquatSpec spec{config};
      squat::LayerBits& own = spec.config.layer_bits[layer];
      if (keys)
        own.keys = LayerCost::key_bits;
      else
        own.values = LayerCost::value_bits;
      const std::string name = keys ? "keys" : "values";
      caches.push_back({name + " of layer " + std::to_string(layer), spec});
    }
  const std::vector<CacheResult> results = evaluate(model, caches, texts, protocol, on_progress);
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
  squat::require(file.good(), "cannot write ", path);
}

}  // namespace squat_llama
