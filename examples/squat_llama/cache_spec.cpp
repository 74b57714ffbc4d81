#include "cache_spec.hpp"

#include <cstdlib>
#include <squat/detail/config_checks.hpp>
#include <squat/error.hpp>
#include <squat/layer_bits.hpp>
#include <sstream>
#include <vector>

#include "../llama_cpp/layer_costs_file.hpp"
#include "config_fields.hpp"

namespace squat_llama {
namespace {

using squat::fail;
using squat::require;

/// What llama.cpp's programs take as --cache-type-k and --cache-type-v.
constexpr ggml_type kCellTypes[] = {GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16,
                                    GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0,
                                    GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

int parse_bits(const std::string& text, const std::vector<int>& known, const std::string& spec) {
  std::string names;
  for (const int bits : known) {
    if (text == std::to_string(bits)) return bits;
    names += (names.empty() ? "" : ", ") + std::to_string(bits);
  }
  fail("bits are '" + text + "' in cache '" + spec + "'; known are " + names);
}

/// Sets what FIELD=VALUE parts from the second one on say.
void set_fields(const std::vector<std::string>& parts, const std::string& spec, SquatSpec& squat) {
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    require(equals != std::string::npos, "'", parts[i], "' in cache '", spec,
            "' is not FIELD=VALUE; known are ", squat_field_names());
    set_squat_field(squat, parts[i].substr(0, equals), parts[i].substr(equals + 1));
  }
  squat::detail::check(squat.config);
}

/// KEYBITS or KEYBITS/VALUEBITS, then any number of ,FIELD=VALUE.
SquatSpec parse_squat(const std::string& arguments, const std::string& spec) {
  const std::vector<int> known = {2, 3, 4, 8};
  const std::vector<std::string> parts = split(arguments, ',');
  const std::vector<std::string> bits = split(parts.empty() ? "" : parts.front(), '/');
  require(bits.size() == 1 || bits.size() == 2, "cache '", spec,
          "' has no bits; write squat:BITS or squat:KEYBITS/VALUEBITS");
  SquatSpec squat;
  squat.config.shared_svd = false;
  squat.config.key_bits = parse_bits(bits.front(), known, spec);
  squat.config.value_bits = parse_bits(bits.back(), known, spec);
  set_fields(parts, spec, squat);
  require(squat.layer_costs.empty() && squat.context_tokens == 0, "layer_costs and context_tokens ",
          "in cache '", spec, "' are for squat+:MEANBITS alone");
  return squat;
}

/// MEANBITS of Config::recommended(), then any number of ,FIELD=VALUE.
SquatSpec parse_recommended(const std::string& arguments, const std::string& spec) {
  const std::vector<std::string> parts = split(arguments, ',');
  char* end = nullptr;
  const std::string bits = parts.empty() ? "" : parts.front();
  const double mean_bits = std::strtod(bits.c_str(), &end);
  require(!bits.empty() && *end == '\0', "mean bits are '", bits, "' in cache '", spec,
          "'; they must be a number, as in squat+:2.5");
  SquatSpec squat{squat::Config::recommended(mean_bits)};
  set_fields(parts, spec, squat);
  // Once more: the other fields change what the context asks for.
  squat.config = squat::Config::recommended(mean_bits, squat.context_tokens);
  squat.config.shared_svd = false;
  set_fields(parts, spec, squat);
  if (!squat.layer_costs.empty())
    squat.config.layer_bits =
        squat::divide_bits(mean_bits, squat_preload::read_layer_costs(squat.layer_costs),
                           squat.context_tokens)
            .layer_bits;
  return squat;
}

/// Min-max codes without feedback: what KIVI does.
SquatSpec parse_kivi(const std::string& arguments, const std::string& spec) {
  SquatSpec kivi;
  kivi.config.shared_svd = false;
  kivi.config.value_bits = parse_bits(arguments, {2, 3, 4, 8}, spec);
  kivi.config.key_bits = kivi.config.value_bits;
  kivi.config.squat_lambda = 0;
  return kivi;
}

}  // namespace

std::string cache_spec_help() {
  std::string names;
  for (const ggml_type type : kCellTypes) names += std::string(ggml_type_name(type)) + ", ";
  return names +
         "turbo:BITS (2, 3, 4), oscar:2, kivi:BITS, squat:BITS, "
         "squat:KEYBITS/VALUEBITS,FIELD=VALUE,... "
         "(2, 3, 4, 8), squat+:MEANBITS,FIELD=VALUE,... (recommended) with the fields " +
         squat_field_names();
}

CacheSpec parse_cache_spec(const std::string& text) {
  for (const ggml_type type : kCellTypes)
    if (text == ggml_type_name(type)) return {text, type};
  const std::size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  const std::string arguments = colon == std::string::npos ? "" : text.substr(colon + 1);
  if (name == "turbo") return {text, TurboSpec{parse_bits(arguments, {2, 3, 4}, text)}};
  if (name == "oscar") {
    parse_bits(arguments, {2}, text);
    return {text, OscarSpec{}};
  }
  if (name == "kivi") return {text, parse_kivi(arguments, text)};
  if (name == "squat") return {text, parse_squat(arguments, text)};
  if (name == "squat+") return {text, parse_recommended(arguments, text)};
  fail("there is no cache '" + text + "'; known are " + cache_spec_help());
}

}  // namespace squat_llama
