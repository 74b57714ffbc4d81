#include <fstream>
#include <iostream>

#include "commands.hpp"
#include "moments.hpp"
#include "require.hpp"
#include "tokenizer.hpp"

namespace squat_llama {

void moments_command(const ModelOptions& model_options, const MomentsOptions& options) {
  const Model model(model_options.path, model_options.weights);
  const Tokenizer tokenizer(model_options.path);
  Engine engine(model, model_options.threads);
  squat::QueryMoments moments = empty_moments(model.config());
  for (const std::string& path : options.texts) {
    std::vector<Token> tokens = tokenizer.encode(read_file(path));
    require(options.tokens >= 1 && tokens.size() >= static_cast<std::size_t>(options.tokens), path,
            " has ", tokens.size(), " tokens; ", options.tokens, " were to be read");
    tokens.resize(static_cast<std::size_t>(options.tokens));
    add_moments(engine, tokens, options.queries, moments);
  }
  std::ofstream file(options.path, std::ios::binary);
  require(file.good(), "cannot write ", options.path);
  moments.save(file);
  std::cout << moments.moment(0, 0).count() << " queries of each of " << model.config().layers
            << " layers and " << model.config().kv_heads << " kv heads in " << options.path << "\n";
}

}  // namespace squat_llama
