// What caches of keys and values cost a language model that llama.cpp runs.
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
  command.add_option("--model", options.path, "GGUF file")->required()->check(CLI::ExistingFile);
  command.add_option("--threads", options.threads, "Threads to compute with")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--weights", options.weights,
                  "single: dequantized, exact; stored: as in the file, with activations rounded to "
                  "8 bits by llama.cpp, which diverges by some 0.004 of its own")
      ->transform(CLI::CheckedTransformer(weights))
      ->default_str("single");
}

void add_moments_option(CLI::App& command, std::string& path) {
  command
      .add_option("--moments", path,
                  "Query moments, as the command of that name writes them, for calibrated=true")
      ->check(CLI::ExistingFile);
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
      app.add_subcommand("evaluate", "Measure what caches cost on texts: quality and memory");
  add_model_options(*command, model);
  add_texts_option(*command, options.texts);
  command->add_option("--cache", options.caches, "Name of a cache, see below; may be given again")
      ->allow_extra_args(false)
      ->capture_default_str();
  add_window_options(*command, options.protocol);
  command
      ->add_option(
          "--batch", options.protocol.batch,
          "Tokens of a prompt in one pass, which a SQuat cache quantizes after it; 0 for all")
      ->capture_default_str();
  command
      ->add_option("--decode-batch", options.protocol.decode_batch,
                   "Tokens decoded in one pass, which attend to each other before a SQuat cache "
                   "quantizes any: for long texts")
      ->capture_default_str();
  add_moments_option(*command, options.moments_path);
  command
      ->add_option("--calibration-text", options.calibration_texts,
                   "Text file on whose first 1024 tokens oscar:2 is fitted; may be given again")
      ->allow_extra_args(false)
      ->check(CLI::ExistingFile);
  command->add_option("--json", options.json_path, "Write the results to this file");
  command->add_option("--plot", options.plot_path,
                      "Draw KL divergence against size (.png, .svg or .pdf)");
  command->footer("Caches: " + cache_spec_help());
  command->callback([&] { evaluate_command(model, options); });
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
  command->callback([&] { capture_command(model, options); });
}

void add_moments(CLI::App& app, ModelOptions& model, MomentsOptions& options) {
  CLI::App* command = app.add_subcommand(
      "moments", "Write the query moments of texts: a metric for calibrated caches");
  add_model_options(*command, model);
  add_texts_option(*command, options.texts);
  command->add_option("--tokens", options.tokens, "Tokens from the start of every text")
      ->capture_default_str();
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
  EvaluateOptions evaluate_options;
  CaptureOptions capture_options;
  MomentsOptions moments_options;
  LayerCostsOptions layer_costs_options;
  layer_costs_options.protocol.prompt_tokens = 512;
  layer_costs_options.protocol.decode_tokens = 64;

  CLI::App app("Measures what quantized caches of keys and values cost a language model");
  app.require_subcommand(1);
  add_evaluate(app, model, evaluate_options);
  add_capture(app, model, capture_options);
  add_moments(app, model, moments_options);
  add_layer_costs(app, model, layer_costs_options);
  try {
    CLI11_PARSE(app, argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
