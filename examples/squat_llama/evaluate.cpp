#include <fstream>
#include <iostream>
#include <iterator>

#include "commands.hpp"
#include "moments.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "require.hpp"
#include "tokenizer.hpp"

namespace squat_llama {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), "cannot open ", path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::vector<Window>> read_windows(const std::vector<std::string>& paths,
                                              const Tokenizer& tokenizer,
                                              const Protocol& protocol) {
  const int leading = tokenizer.leading_token();
  std::vector<std::vector<Window>> windows;
  for (const std::string& path : paths) {
    std::vector<Token> tokens = tokenizer.encode(read_file(path));
    if (leading >= 0) tokens.erase(tokens.begin());  // every window gets its own
    windows.push_back(cut_windows(tokens, protocol, leading, path));
  }
  return windows;
}

void evaluate_command(const ModelOptions& model_options, const EvaluateOptions& options) {
  std::vector<CacheSpec> caches;
  for (const std::string& cache : options.caches) caches.push_back(parse_cache_spec(cache));
  const Model model(model_options.path, model_options.weights);
  const Tokenizer tokenizer(model_options.path);
  Engine engine(model, model_options.threads);
  Protocol protocol = options.protocol;
  const auto moments = load_moments(options.moments_path, model.config());
  if (moments) protocol.moments = &*moments;

  const auto windows = read_windows(options.texts, tokenizer, protocol);

  std::vector<CacheResult> results;
  {
    ProgressBar bar;
    results = evaluate(engine, caches, windows, protocol,
                       [&](double done, const std::string& cache) { bar.show(done, cache); });
  }
  const Setting setting{model_options.path, options.texts, model_options.threads, protocol};
  print_table(std::cout, results, setting);
  if (!options.json_path.empty()) write_json(options.json_path, results, setting);
  if (!options.plot_path.empty()) write_plot(options.plot_path, results);
}

}  // namespace squat_llama
