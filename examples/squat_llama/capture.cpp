#include <iostream>

#include "commands.hpp"
#include "require.hpp"
#include "states.hpp"
#include "tokenizer.hpp"

namespace squat_llama {

void capture(const ModelOptions& model_options, const CaptureOptions& options) {
  const Model model(model_options.path, model_options.weights);
  const ModelConfig& config = model.config();
  std::vector<Token> tokens = Tokenizer(model_options.path).encode(read_file(options.text_path));
  require(options.tokens >= 1 && tokens.size() >= static_cast<std::size_t>(options.tokens),
          options.text_path, " has ", tokens.size(), " tokens; ", options.tokens,
          " were to be captured");
  tokens.resize(static_cast<std::size_t>(options.tokens));
  Engine engine(model, model_options.threads);
  const std::size_t layers =
      write_states(engine, tokens, {options.layers.begin(), options.layers.end()}, options.folder);
  std::cout << layers << " layers, " << options.tokens << " tokens, " << config.query_heads
            << " query heads, " << config.kv_heads << " kv heads, head_dim " << config.head_dim
            << " in " << options.folder
            << ": layerNN.{q,k,v}.f16, half precision [tokens, heads, head_dim]\n";
}

}  // namespace squat_llama
