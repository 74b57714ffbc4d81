// What the environment asks for.
#pragma once

#include <llama.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <squat/layer_bits.hpp>
#include <squat/query_moments.hpp>
#include <string>
#include <utility>

#include "layer_costs_file.hpp"

namespace squat_preload {

struct Settings {
  std::string text;          ///< of SQUAT_CACHE
  squat::Config config;      ///< that the variables stand for
  std::string moments_path;  ///< SQUAT_MOMENTS; empty for none

  /// Whether SQUAT_CACHE is there at all.
  static bool is_active() {
    static const bool is_active = std::getenv("SQUAT_CACHE") != nullptr;
    return is_active;
  }

  /// SQUAT_LOG. Fails on what cannot be meant.
  static bool is_verbose() {
    const std::string verbosity = variable("SQUAT_LOG", "0");
    squat::require(verbosity == "0" || verbosity == "1", "SQUAT_LOG is '", verbosity,
                   "'; it must be 0 or 1");
    return verbosity == "1";
  }

  /// Fails on what cannot be meant. Reads SQUAT_LAYER_COSTS.
  static Settings from_environment() {
    Settings settings{variable("SQUAT_CACHE"), {}, variable("SQUAT_MOMENTS")};
    settings.config =
        parse(settings.text, variable("SQUAT_LAYER_COSTS"), variable("SQUAT_CONTEXT_TOKENS"));
    // Sequences are texts of different people: each has a metric of its own.
    settings.config.shared_svd = false;
    return settings;
  }

  /// What SQUAT_MOMENTS has for a model of `shape`. Fails, naming the file, on one that is not for
  /// it.
  std::optional<squat::QueryMoments> moments(const squat::ModelShape& shape) const {
    if (moments_path.empty()) return std::nullopt;
    std::ifstream file(moments_path, std::ios::binary);
    squat::require(file.good(), "SQUAT_MOMENTS: cannot open ", moments_path);
    return squat::QueryMoments::load(file, shape);
  }

 private:
  static std::string variable(const char* name, const char* otherwise = "") {
    const char* value = std::getenv(name);
    return value != nullptr ? value : otherwise;
  }

  /// SQUAT_CONTEXT_TOKENS; 0 where it is not set.
  static squat::Index parse_context_tokens(const std::string& text) {
    if (text.empty()) return 0;
    char* end = nullptr;
    const long long tokens = std::strtoll(text.c_str(), &end, 10);
    squat::require(*end == '\0' && tokens >= 1 && tokens <= std::numeric_limits<int>::max(),
                   "SQUAT_CONTEXT_TOKENS is '", text, "'; it must be a number of tokens, 1 to ",
                   std::numeric_limits<int>::max());
    return static_cast<squat::Index>(tokens);
  }

  static squat::Config parse(const std::string& text, const std::string& layer_costs,
                             const std::string& context) {
    const std::string published = "published:";
    const bool is_published = text.compare(0, published.size(), published) == 0;
    const std::string number = is_published ? text.substr(published.size()) : text;
    char* end = nullptr;
    const double bits = std::strtod(number.c_str(), &end);
    const bool is_number = !number.empty() && *end == '\0';
    const bool is_allowed =
        is_number && (is_published ? bits == 2 || bits == 3 || bits == 4 || bits == 8
                                   : bits >= 1.75 && bits <= 8);
    squat::require(is_allowed, "SQUAT_CACHE is '", text,
                   "'; it must be bits per element, 1.75 to 8, or published:2, published:3, "
                   "published:4 or published:8");
    for (const auto& [name, value] :
         {std::pair("SQUAT_LAYER_COSTS", layer_costs), std::pair("SQUAT_CONTEXT_TOKENS", context)})
      squat::require(value.empty() || !is_published, name,
                     " divides the bits of the recommended cache; SQUAT_CACHE is '", text, "'");
    const squat::Index context_tokens = parse_context_tokens(context);
    if (!layer_costs.empty())
      return squat::divide_bits(bits, read_layer_costs(layer_costs), context_tokens);
    if (!is_published) return squat::Config::recommended(bits, context_tokens);
    squat::Config config;
    config.key_bits = bits;
    config.value_bits = static_cast<int>(bits);
    return config;
  }
};

/// Fails if llama_context_params of the llama.cpp that is running are not those of the headers that
/// this library was compiled with, as far as their defaults show.
inline void check_layout(decltype(&::llama_context_default_params) get_defaults) {
  // Room for more than the struct that we know, for the function writes the one that it knows.
  struct Room {
    llama_context_params known;
    char rest[1024];
  };
  const auto get_room = reinterpret_cast<Room (*)()>(reinterpret_cast<void*>(get_defaults));
  const llama_context_params found = get_room().known;
  const bool is_known =
      found.n_ctx == 512 && found.n_batch == 2048 && found.n_ubatch == 512 &&
      found.n_seq_max == 1 && found.ctx_type == LLAMA_CONTEXT_TYPE_DEFAULT &&
      found.rope_scaling_type == LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED &&
      found.pooling_type == LLAMA_POOLING_TYPE_UNSPECIFIED &&
      found.attention_type == LLAMA_ATTENTION_TYPE_UNSPECIFIED &&
      found.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_AUTO && found.rope_freq_base == 0 &&
      found.yarn_ext_factor == -1 && found.defrag_thold == -1 && found.cb_eval == nullptr &&
      found.cb_eval_user_data == nullptr && found.type_k == GGML_TYPE_F16 &&
      found.type_v == GGML_TYPE_F16 && found.abort_callback == nullptr &&
      found.abort_callback_data == nullptr && !found.embeddings && found.offload_kqv &&
      found.no_perf && found.op_offload && found.swa_full && !found.kv_unified &&
      found.samplers == nullptr && found.n_samplers == 0 && found.ctx_other == nullptr;
  squat::require(is_known,
                 "llama_context_params of this llama.cpp are laid out in another way than in the "
                 "llama.h that libsquat_llama.so was compiled with: compile it for this version");
}

}  // namespace squat_preload
