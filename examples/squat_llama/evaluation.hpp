// What caches cost: the quality of predictions, memory and speed, over windows of texts.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cache_spec.hpp"
#include "engine.hpp"
#include "quality.hpp"

namespace squat_llama {

/// A window is a prompt and tokens that are then decoded one by one, each given the text's true
/// past. A prompt attends to itself exactly, unless it is long and read in several passes to save
/// memory.
struct Protocol {
  int prompt_tokens = 1024;
  int decode_tokens = 256;
  int windows = 1;  ///< of every text
  int batch = 0;    ///< tokens of the prompt in one pass; 0 for all
  /// The windows of all texts are sequences of one cache, so that shared_svd shares the subspace of
  /// the first one's prompt; otherwise each has a cache of its own.
  bool one_cache = false;
  const squat::QueryMoments* moments = nullptr;  ///< for caches that ask for them

  int window_tokens() const { return prompt_tokens + decode_tokens + 1; }  ///< with the last target
};

struct CacheResult {
  std::string cache;
  Quality quality;               ///< over all windows
  std::vector<Quality> by_text;  ///< over the windows of each
  CacheBytes bytes;              ///< at the end of the last window, of all if they share a cache
  double peak_resident = 0;      ///< bytes of the whole process; 0 where the system does not tell
  double prompt_seconds = 0;     ///< over all windows
  double decode_seconds = 0;
};

using Window = std::vector<Token>;

/// The first windows of a text that do not overlap. Each begins with `leading_token` unless that is
/// -1. A text that is too short is an error with its name that says how long it is.
std::vector<Window> cut_windows(const std::vector<Token>& text, const Protocol& protocol,
                                int leading_token, const std::string& name = "the text");

/// Told after every decoded token: the share of the work that is done, and the cache at work.
using OnProgress = std::function<void(double done, const std::string& cache)>;

/// One result a cache, over the windows of each of `texts`. What a cache predicts is compared with
/// a full-precision cache.
std::vector<CacheResult> evaluate(Engine& engine, const std::vector<CacheSpec>& caches,
                                  const std::vector<std::vector<Window>>& texts,
                                  const Protocol& protocol, const OnProgress& on_progress = {});

}  // namespace squat_llama
