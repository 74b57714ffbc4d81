// The names by which caches are asked for, for example "q4_0" or "squat:2/3,squat_lambda=0.01".
#pragma once

#include <memory>
#include <string>
#include <variant>

#include "ggml_cache.hpp"
#include "squat_cache.hpp"

namespace squat_llama {

struct GgmlSpec {
  ggml_type type;
  Rotation rotation;
};

struct TurboSpec {
  int bits;
};

struct CacheSpec {
  std::string text;  ///< as it was asked for
  std::variant<GgmlSpec, TurboSpec, SquatSpec> format;
};

/// An unknown name, field or value is an error that lists the known ones.
CacheSpec parse_cache_spec(const std::string& text);

/// What parse_cache_spec() takes, one line a name, for --help.
std::string cache_spec_help();

/// An empty cache.
std::unique_ptr<KvCache> make_cache(const CacheSpec& spec, const ModelConfig& model,
                                    const CacheOptions& options);

}  // namespace squat_llama
