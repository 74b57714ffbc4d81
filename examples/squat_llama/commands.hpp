// What the program does, one function a command.
#pragma once

#include <string>
#include <vector>

#include "evaluation.hpp"

namespace squat_llama {

/// What every command needs to know.
struct ModelOptions {
  std::string path;
  Weights weights = Weights::single;
  int threads = 1;
};

struct EvaluateOptions {
  std::vector<std::string> texts;  ///< paths
  std::vector<std::string> caches = {"squat+:2.5"};
  Protocol protocol;
  std::string moments_path;                    ///< for caches with calibrated=true; empty for none
  std::vector<std::string> calibration_texts;  ///< paths, for caches that are fitted on texts
  std::string json_path;                       ///< empty for none
  std::string plot_path;                       ///< empty for none
};

/// Prints a table of caches and writes the files that were asked for.
void evaluate_command(const ModelOptions& model, const EvaluateOptions& options);

struct LayerCostsOptions {
  std::vector<std::string> texts;  ///< paths
  std::string path;
  Protocol protocol;
};

/// Writes what quantizing each layer costs, for caches with layer_costs=FILE.
void layer_costs_command(const ModelOptions& model, const LayerCostsOptions& options);

struct MomentsOptions {
  std::vector<std::string> texts;  ///< paths
  std::string path;
  int tokens = 1024;  ///< of every text
};

/// Writes the second moments of the queries of texts, for calibrated caches.
void moments_command(const ModelOptions& model, const MomentsOptions& options);

struct CaptureOptions {
  std::string text_path;
  std::string folder;
  std::vector<int> layers;  ///< empty for all
  int tokens = 1280;
};

/// Writes queries, keys (both after RoPE) and values of a text's first tokens: layerNN.{q,k,v}.f16
/// are half precision, row-major [tokens, heads, head_dim].
void capture_command(const ModelOptions& model, const CaptureOptions& options);

}  // namespace squat_llama
