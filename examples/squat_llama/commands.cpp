#include "commands.hpp"

#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <squat/error.hpp>

#include "layer_costs.hpp"
#include "moments.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "squat_session.hpp"
#include "states.hpp"

namespace squat_llama {
namespace {

using squat::require;

constexpr int calibration_tokens = 1024;  // of every text

Model load(const ModelOptions& options) { return {options.path, options.weights, options.threads}; }

std::vector<Token> read_tokens(const std::string& path, const Model& model) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), "cannot open ", path);
  return model.encode({std::istreambuf_iterator<char>(file), {}});
}

std::vector<Token> first_tokens(const std::string& path, const Model& model, int count) {
  std::vector<Token> tokens = read_tokens(path, model);
  require(count >= 1 && tokens.size() >= static_cast<std::size_t>(count), path, " has ",
          tokens.size(), " tokens; ", count, " were to be read");
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

/// The windows of each text.
std::vector<std::vector<Window>> read_windows(const std::vector<std::string>& paths,
                                              const Model& model, const Protocol& protocol) {
  const Token leading = model.leading_token();
  std::vector<std::vector<Window>> windows;
  for (const std::string& path : paths) {
    std::vector<Token> tokens = read_tokens(path, model);
    if (leading >= 0) tokens.erase(tokens.begin());  // every window gets its own
    windows.push_back(cut_windows(tokens, protocol, leading, path));
  }
  return windows;
}

}  // namespace

void evaluate_command(const ModelOptions& model_options, const EvaluateOptions& options) {
  std::vector<CacheSpec> caches;
  for (const std::string& cache : options.caches) caches.push_back(parse_cache_spec(cache));
  const Model model = load(model_options);
  Protocol protocol = options.protocol;
  std::optional<squat::QueryMoments> moments;
  if (!options.moments_path.empty()) {
    std::ifstream file(options.moments_path, std::ios::binary);
    require(file.good(), "cannot open ", options.moments_path);
    moments = squat::QueryMoments::load(file, attention_shape(model));
    protocol.moments = &*moments;
  }
  for (const std::string& path : options.calibration_texts)
    protocol.calibration.push_back(first_tokens(path, model, calibration_tokens));
  const auto windows = read_windows(options.texts, model, protocol);
  std::vector<CacheResult> results;
  {
    ProgressBar bar;
    results = evaluate(model, caches, windows, protocol,
                       [&](double done, const std::string& cache) { bar.show(done, cache); });
  }
  const Setting setting{model_options.path, options.texts, model_options.threads, protocol};
  print_table(std::cout, results, setting);
  if (!options.json_path.empty()) write_json(options.json_path, results, setting);
  if (!options.plot_path.empty()) write_plot(options.plot_path, results);
}

void layer_costs_command(const ModelOptions& model_options, const LayerCostsOptions& options) {
  const Model model = load(model_options);
  const auto windows = read_windows(options.texts, model, options.protocol);
  std::vector<squat::LayerCost> costs;
  {
    ProgressBar bar;
    costs =
        measure_layer_costs(model, windows, options.protocol,
                            [&](double done, const std::string& cache) { bar.show(done, cache); });
  }
  write_layer_costs(options.path, costs);
  std::cout << "What keys and values cost in each of " << costs.size() << " layers is in "
            << options.path << "\n";
}

void moments_command(const ModelOptions& model_options, const MomentsOptions& options) {
  const Model model = load(model_options);
  squat::QueryMoments moments = empty_moments(model);
  for (const std::string& path : options.texts)
    add_moments(model, first_tokens(path, model, options.tokens), moments);
  std::ofstream file(options.path, std::ios::binary);
  require(file.good(), "cannot write ", options.path);
  moments.save(file);
  std::cout << moments.moment(0, 0).count() << " queries of each kv head of layer 0, and those of "
            << moments.shape().layers - 1 << " more layers, are in " << options.path << "\n";
}

void capture_command(const ModelOptions& model_options, const CaptureOptions& options) {
  const Model model = load(model_options);
  const std::size_t layers =
      write_states(model, first_tokens(options.text_path, model, options.tokens),
                   {options.layers.begin(), options.layers.end()}, options.folder);
  std::cout << layers << " layers of " << options.tokens << " tokens are in " << options.folder
            << ": layerNN.{q,k,v}.f16, half precision [tokens, heads, head_dim]\n";
}

}  // namespace squat_llama
