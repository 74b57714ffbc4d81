// What the program does, one function a command.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evaluation.hpp"
#include "tokenizer.hpp"

namespace squat_llama {

/// What every command needs to know.
struct ModelOptions {
  std::string path;
  Weights weights = Weights::as_stored;
  int threads = 1;
};

struct GenerateOptions {
  std::string prompt;
  std::string cache = "squat:2";
  int tokens = 200;        ///< at most
  int batch = 1024;        ///< tokens of the prompt that are read in one pass
  double temperature = 0;  ///< 0 takes the likeliest token
  std::uint32_t seed = 1;
  bool raw = false;               ///< without the model's chat template
  std::string moments_path = {};  ///< for caches with calibrated=true; empty for none
};

/// Answers a message on standard output, then says what the cache holds and how fast it was.
void generate(const ModelOptions& model, const GenerateOptions& options);

struct EvaluateOptions {
  std::vector<std::string> texts;  ///< paths
  std::vector<std::string> caches = {"squat:2"};
  Protocol protocol;
  std::string moments_path;  ///< for caches with calibrated=true; empty for none
  std::string json_path;     ///< empty for none
  std::string plot_path;     ///< empty for none
};

/// Prints a table of caches and writes the files that were asked for.
void evaluate_command(const ModelOptions& model, const EvaluateOptions& options);

struct SpeedOptions {
  std::string text_path;
  std::vector<std::string> caches = {"f16", "q4_0", "squat:2", "squat:4", "llama.cpp:f16"};
  int context = 8192;             ///< tokens that are cached in the end
  int tokens = 8;                 ///< decoded in one repetition
  int repetitions = 9;            ///< of every cache, in turn
  std::string moments_path = {};  ///< for caches with calibrated=true; empty for none
};

/// Prints how quickly each cache decodes; llama.cpp:TYPE is llama.cpp's own pass and cache.
void speed(const ModelOptions& model, const SpeedOptions& options);

struct CaptureOptions {
  std::string text_path;
  std::string folder;
  std::vector<int> layers;  ///< empty for all
  int tokens = 1280;
};

/// Writes queries, keys (both after RoPE) and values of a text's first tokens: layerNN.{q,k,v}.f16
/// are half precision, row-major [tokens, heads, head_dim].
void capture(const ModelOptions& model, const CaptureOptions& options);

struct MomentsOptions {
  std::vector<std::string> texts;  ///< paths
  std::string path;
  int tokens = 1024;  ///< of every text
  squat::SubspaceQueries queries = squat::SubspaceQueries::after_rope;
};

/// Writes the second moments of the queries of texts, for calibrated caches.
void moments_command(const ModelOptions& model, const MomentsOptions& options);

struct LayerCostsOptions {
  std::vector<std::string> texts;  ///< paths
  std::string path;
  Protocol protocol;
};

/// Writes what quantizing each layer costs, for caches with layer_costs=FILE.
void layer_costs_command(const ModelOptions& model, const LayerCostsOptions& options);

/// The windows of each text.
std::vector<std::vector<Window>> read_windows(const std::vector<std::string>& paths,
                                              const Tokenizer& tokenizer, const Protocol& protocol);

/// The bytes of a file; one that cannot be read is an error.
std::string read_file(const std::string& path);

}  // namespace squat_llama
