// What caches cost: the quality of predictions and memory, over windows of texts.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cache_spec.hpp"
#include "quality.hpp"
#include "session.hpp"

namespace squat_llama {

/// A window is a prompt and tokens that are then decoded, one by one or a few at a time, each given
/// the text's true past. All windows are sequences of one cache, which decode side by side.
struct Protocol {
  int prompt_tokens = 1024;
  int decode_tokens = 256;
  int windows = 1;                               ///< of every text
  int batch = 0;                                 ///< tokens of the prompt in one pass; 0 for all
  int decode_batch = 1;                          ///< tokens decoded in one pass
  const squat::QueryMoments* moments = nullptr;  ///< for caches that ask for them
  std::vector<std::vector<Token>> calibration = {};  ///< texts, for caches that are fitted on some

  int window_tokens() const { return prompt_tokens + decode_tokens + 1; }  ///< with the last target
};

struct CacheResult {
  std::string cache;
  Quality quality;               ///< over all windows
  std::vector<Quality> by_text;  ///< over the windows of each
  CacheBytes bytes;              ///< at the end, of one window
};

using Window = std::vector<Token>;

/// The first windows of a text that do not overlap. Each begins with `leading_token` unless that is
/// -1. A text that is too short is an error with its name that says how long it is.
std::vector<Window> cut_windows(const std::vector<Token>& text, const Protocol& protocol,
                                Token leading_token, const std::string& name = "the text");

/// Told now and then: the share of the work that is done, and the cache at work.
using OnProgress = std::function<void(double done, const std::string& cache)>;

/// One result a cache, over the windows of each of `texts`. What a cache predicts is compared with
/// predictions on llama.cpp's cache in single precision.
std::vector<CacheResult> evaluate(const Model& model, const std::vector<CacheSpec>& caches,
                                  const std::vector<std::vector<Window>>& texts,
                                  const Protocol& protocol, const OnProgress& on_progress = {});

}  // namespace squat_llama
