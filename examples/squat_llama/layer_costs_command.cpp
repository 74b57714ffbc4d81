#include <iostream>

#include "commands.hpp"
#include "layer_costs.hpp"
#include "progress.hpp"
#include "tokenizer.hpp"

namespace squat_llama {

void layer_costs_command(const ModelOptions& model_options, const LayerCostsOptions& options) {
  const Model model(model_options.path, model_options.weights);
  const Tokenizer tokenizer(model_options.path);
  Engine engine(model, model_options.threads);
  const auto windows = read_windows(options.texts, tokenizer, options.protocol);
  std::vector<squat::LayerCost> costs;
  {
    ProgressBar bar;
    costs =
        measure_layer_costs(engine, model.config().layers, windows, options.protocol,
                            [&](double done, const std::string& cache) { bar.show(done, cache); });
  }
  write_layer_costs(options.path, costs);
  std::cout << "What keys and values cost in each of " << costs.size() << " layers is in "
            << options.path << "\n";
}

}  // namespace squat_llama
