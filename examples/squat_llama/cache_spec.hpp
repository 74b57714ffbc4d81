// The names by which caches are asked for, for example "q4_0" or "squat:2/3,squat_lambda=0.01".
#pragma once

#include <ggml.h>

#include <string>
#include <variant>

#include "squat_spec.hpp"

namespace squat_llama {

struct TurboSpec {
  int bits;  ///< of TurboCodec
};

struct OscarSpec {};  // OscarCodec has 2 bits

struct CacheSpec {
  std::string text;  ///< as it was asked for
  /// ggml_type: llama.cpp's own.
  std::variant<ggml_type, TurboSpec, OscarSpec, SquatSpec> format;
};

/// An unknown name, field or value is an error that lists the known ones.
CacheSpec parse_cache_spec(const std::string& text);

/// What parse_cache_spec() takes, one line a name, for --help.
std::string cache_spec_help();

}  // namespace squat_llama
