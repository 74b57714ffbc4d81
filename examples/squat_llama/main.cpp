// A small language-model engine whose keys and values live in a cache of the user's choice.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <iostream>
#include <map>
#include <thread>

#include "commands.hpp"

namespace {

using namespace squat_llama;

void add_model_options(CLI::App& command, ModelOptions& options) {
  const std::map<std::string, Weights> weights = {{"stored", Weights::as_stored},
                                                  {"single", Weights::single}};
  command.add_option("--model", options.path, "GGUF file of a Llama-like model")
      ->required()
      ->check(CLI::ExistingFile);
  command.add_option("--threads", options.threads, "Threads to compute with")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--weights", options.weights,
                  "stored: as in the file, activations rounded to 8 bits by ggml; single: "
                  "dequantized, exact")
      ->transform(CLI::CheckedTransformer(weights))
      ->default_str(options.weights == Weights::single ? "single" : "stored");
}

void add_moments_option(CLI::App& command, std::string& path) {
  command
      .add_option("--moments", path,
                  "Query moments, as the command of that name writes them, for calibrated=true")
      ->check(CLI::ExistingFile);
}

void add_generate(CLI::App& app, ModelOptions& model, GenerateOptions& options) {
  CLI::App* command = app.add_subcommand("generate", "Answer a message");
  add_model_options(*command, model);
  command->add_option("--prompt", options.prompt, "The message")->required();
  command->add_option("--cache", options.cache, "Name of a cache, see below")
      ->capture_default_str();
  command->add_option("--tokens", options.tokens, "Most tokens of the answer")
      ->capture_default_str();
  command->add_option("--batch", options.batch, "Tokens of the prompt in one pass")
      ->capture_default_str();
  command->add_option("--temperature", options.temperature, "0 takes the likeliest token")
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Seed of the sampling")->capture_default_str();
  add_moments_option(*command, options.moments_path);
  command->add_flag("--raw", options.raw, "Continue the text, without the chat template");
  command->footer("Caches: " + cache_spec_help());
  command->callback([&] { generate(model, options); });
}

void add_texts_option(CLI::App& command, std::vector<std::string>& texts) {
  command.add_option("--text", texts, "Text file; may be given again")
      ->required()
      ->allow_extra_args(false)
      ->check(CLI::ExistingFile);
}

void add_window_options(CLI::App& command, Protocol& protocol) {
  command.add_option("--prompt-tokens", protocol.prompt_tokens, "Tokens of a prompt")
      ->capture_default_str();
  command
      .add_option("--decode-tokens", protocol.decode_tokens,
                  "Tokens decoded after it, one by one, each given its true past")
      ->capture_default_str();
  command.add_option("--windows", protocol.windows, "Stretches of every text")
      ->capture_default_str();
}

void add_evaluate(CLI::App& app, ModelOptions& model, EvaluateOptions& options) {
  CLI::App* command =
      app.add_subcommand("evaluate", "Measure what caches cost on a text: quality, memory, speed");
  add_model_options(*command, model);
  add_texts_option(*command, options.texts);
  command->add_option("--cache", options.caches, "Name of a cache, see below; may be given again")
      ->allow_extra_args(false)
      ->capture_default_str();
  add_window_options(*command, options.protocol);
  command
      ->add_option("--batch", options.protocol.batch,
                   "Tokens of a prompt in one pass; 0 reads it at once, exactly, for more memory")
      ->capture_default_str();
  command->add_flag("--one-cache", options.protocol.one_cache,
                    "Windows are sequences of one cache, whose first prompt's subspace serves all "
                    "unless shared_svd=false");
  add_moments_option(*command, options.moments_path);
  command->add_option("--json", options.json_path, "Write the results to this file");
  command->add_option("--plot", options.plot_path,
                      "Draw KL divergence against bits per element (.png, .svg or .pdf)");
  command->footer("Caches: " + cache_spec_help());
  command->callback([&] { evaluate_command(model, options); });
}

void add_speed(CLI::App& app, ModelOptions& model, SpeedOptions& options) {
  CLI::App* command =
      app.add_subcommand("speed", "Measure how quickly caches decode, llama.cpp's among them");
  add_model_options(*command, model);
  command->add_option("--text", options.text_path, "Text file that fills the caches")
      ->required()
      ->check(CLI::ExistingFile);
  command
      ->add_option("--cache", options.caches,
                   "Name of a cache, see below, or llama.cpp:f16, llama.cpp:q8_0 or "
                   "llama.cpp:q4_0; may be given again")
      ->allow_extra_args(false)
      ->capture_default_str();
  command->add_option("--context", options.context, "Tokens that are cached in the end")
      ->capture_default_str();
  command->add_option("--tokens", options.tokens, "Tokens decoded in one repetition")
      ->capture_default_str();
  add_moments_option(*command, options.moments_path);
  command->add_option("--repetitions", options.repetitions, "Repetitions of every cache, in turn")
      ->capture_default_str();
  command->footer("Caches: " + cache_spec_help());
  command->callback([&] { speed(model, options); });
}

void add_capture(CLI::App& app, ModelOptions& model, CaptureOptions& options) {
  CLI::App* command = app.add_subcommand("capture", "Write queries, keys and values of a text");
  add_model_options(*command, model);
  command->add_option("--text", options.text_path, "Text file")
      ->required()
      ->check(CLI::ExistingFile);
  command->add_option("--out", options.folder, "Folder for layerNN.{q,k,v}.f16")->required();
  command->add_option("--layers", options.layers, "Layers, comma-separated; all if left out")
      ->delimiter(',');
  command->add_option("--tokens", options.tokens, "Tokens from the start of the text")
      ->capture_default_str();
  command->callback([&] { capture(model, options); });
}

void add_moments(CLI::App& app, ModelOptions& model, MomentsOptions& options) {
  const std::map<std::string, squat::SubspaceQueries> queries = {
      {"after_rope", squat::SubspaceQueries::after_rope},
      {"before_rope", squat::SubspaceQueries::before_rope}};
  CLI::App* command = app.add_subcommand(
      "moments", "Write the query moments of texts: a metric for calibrated caches");
  add_model_options(*command, model);
  add_texts_option(*command, options.texts);
  command->add_option("--tokens", options.tokens, "Tokens from the start of every text")
      ->capture_default_str();
  command
      ->add_option("--queries", options.queries,
                   "after_rope or before_rope, as subspace_queries of the cache")
      ->transform(CLI::CheckedTransformer(queries))
      ->default_str("after_rope");
  command->add_option("--out", options.path, "File to write")->required();
  command->callback([&] { moments_command(model, options); });
}

void add_layer_costs(CLI::App& app, ModelOptions& model, LayerCostsOptions& options) {
  CLI::App* command = app.add_subcommand(
      "layer-costs", "Write what quantizing each layer costs: for caches with layer_costs=FILE");
  add_model_options(*command, model);
  add_texts_option(*command, options.texts);
  add_window_options(*command, options.protocol);
  command->add_option("--out", options.path, "File to write")->required();
  command->callback([&] { layer_costs_command(model, options); });
}

}  // namespace

int main(int argc, char** argv) {
  ModelOptions model;
  model.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  // Rounded activations diverge by some 0.004 of their own, which would hide what good caches cost.
  ModelOptions exact_model = model;
  exact_model.weights = Weights::single;
  GenerateOptions generate_options;
  EvaluateOptions evaluate_options;
  SpeedOptions speed_options;
  CaptureOptions capture_options;
  MomentsOptions moments_options;
  LayerCostsOptions layer_costs_options;
  layer_costs_options.protocol.prompt_tokens = 512;
  layer_costs_options.protocol.decode_tokens = 64;

  CLI::App app("Runs a Llama-like model on a quantized key-value cache");
  app.require_subcommand(1);
  add_generate(app, model, generate_options);
  add_evaluate(app, exact_model, evaluate_options);
  add_speed(app, model, speed_options);
  add_capture(app, exact_model, capture_options);
  add_moments(app, exact_model, moments_options);
  add_layer_costs(app, exact_model, layer_costs_options);
  try {
    CLI11_PARSE(app, argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
