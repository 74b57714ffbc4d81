#include "config_fields.hpp"

#include <charconv>
#include <squat/error.hpp>
#include <type_traits>
#include <utility>

namespace squat_llama {
namespace {

using squat::fail;
using squat::require;

template <class Number>
bool parse(const std::string& text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end;
}

bool parse(const std::string& text, bool& flag) {
  flag = text == "true";
  return flag || text == "false";
}

bool parse(const std::string& text, squat::Backend& backend) {
  backend = text == "hqq"        ? squat::Backend::hqq
            : text == "unbiased" ? squat::Backend::unbiased
                                 : squat::Backend::quanto;
  return text == "hqq" || text == "unbiased" || text == "quanto";
}

bool parse(const std::string& text, squat::KeyScales& scales) {
  scales = text == "per_token" ? squat::KeyScales::per_token : squat::KeyScales::per_channel;
  return text == "per_token" || text == "per_channel";
}

bool parse(const std::string& text, squat::ValueGrid& grid) {
  grid = text == "symmetric" ? squat::ValueGrid::symmetric : squat::ValueGrid::min_max;
  return text == "symmetric" || text == "min_max";
}

bool parse(const std::string& text, squat::SubspaceQueries& queries) {
  queries = text == "before_rope" ? squat::SubspaceQueries::before_rope
                                  : squat::SubspaceQueries::after_rope;
  return text == "before_rope" || text == "after_rope";
}

bool parse(const std::string& text, squat::SubspaceMethod& method) {
  method = text == "power" ? squat::SubspaceMethod::power : squat::SubspaceMethod::eigen;
  return text == "power" || text == "eigen";
}

bool parse(const std::string& text, squat::Arithmetic& arithmetic) {
  arithmetic = text == "dequantized" ? squat::Arithmetic::dequantized : squat::Arithmetic::fast;
  return text == "dequantized" || text == "fast";
}

bool parse(const std::string& text, std::string& path) {
  path = text;
  return !text.empty();
}

template <class Value>
constexpr const char* allowed() {
  if (std::is_same_v<Value, std::string>) return "FILE";
  if (std::is_same_v<Value, bool>) return "true|false";
  if (std::is_same_v<Value, squat::Backend>) return "quanto|hqq|unbiased";
  if (std::is_same_v<Value, squat::KeyScales>) return "per_channel|per_token";
  if (std::is_same_v<Value, squat::ValueGrid>) return "min_max|symmetric";
  if (std::is_same_v<Value, squat::SubspaceQueries>) return "after_rope|before_rope";
  if (std::is_same_v<Value, squat::SubspaceMethod>) return "eigen|power";
  if (std::is_same_v<Value, squat::Arithmetic>) return "fast|dequantized";
  return std::is_integral_v<Value> ? "INTEGER" : "NUMBER";
}

struct Field {
  const char* name;
  const char* allowed;
  bool (*set)(SquatSpec& spec, const std::string& value);
};

template <class Value>
Value& member_of(SquatSpec& spec, Value squat::Config::*member) {
  return spec.config.*member;
}
template <class Value>
Value& member_of(SquatSpec& spec, Value SquatSpec::*member) {
  return spec.*member;
}

template <auto member>
constexpr Field field(const char* name) {
  using Value = std::decay_t<decltype(member_of(std::declval<SquatSpec&>(), member))>;
  return {name, allowed<Value>(), [](SquatSpec& spec, const std::string& value) {
            return parse(value, member_of(spec, member));
          }};
}

constexpr Field kFields[] = {
    field<&squat::Config::backend>("backend"),
    field<&squat::Config::quant_group_size>("quant_group_size"),
    field<&squat::Config::residual_length>("residual_length"),
    field<&squat::Config::squat_lambda>("squat_lambda"),
    field<&squat::Config::subspace_dim>("subspace_dim"),
    field<&squat::Config::shared_svd>("shared_svd"),
    field<&squat::Config::token_group_size>("token_group_size"),
    field<&squat::Config::scale_bits>("scale_bits"),
    field<&squat::Config::normalised_lambda>("normalised_lambda"),
    field<&squat::Config::rolling_residual>("rolling_residual"),
    field<&squat::Config::key_bits>("key_bits"),
    field<&squat::Config::adaptive_bits>("adaptive_bits"),
    field<&squat::Config::key_scales>("key_scales"),
    field<&squat::Config::key_group_size>("key_group_size"),
    field<&squat::Config::rotate_keys>("rotate_keys"),
    field<&squat::Config::value_bits>("value_bits"),
    field<&squat::Config::value_group_size>("value_group_size"),
    field<&squat::Config::value_grid>("value_grid"),
    field<&squat::Config::rotate_values>("rotate_values"),
    field<&squat::Config::residual_bits>("residual_bits"),
    field<&squat::Config::full_precision_tokens>("full_precision_tokens"),
    field<&squat::Config::query_decay>("query_decay"),
    field<&squat::Config::subspace_queries>("subspace_queries"),
    field<&squat::Config::subspace_method>("subspace_method"),
    field<&squat::Config::arithmetic>("arithmetic"),
    field<&SquatSpec::calibrated>("calibrated"),
    field<&SquatSpec::context_tokens>("context_tokens"),
    field<&SquatSpec::layer_costs>("layer_costs"),
};

}  // namespace

void set_squat_field(SquatSpec& spec, const std::string& name, const std::string& value) {
  for (const Field& field : kFields) {
    if (field.name != name) continue;
    require(field.set(spec, value), "'", name, "' is '", value, "'; it must be ", field.allowed);
    return;
  }
  fail("a SQuat cache has no field '" + name + "'; known are " + squat_field_names());
}

std::string squat_field_names() {
  std::string names;
  for (const Field& field : kFields) {
    names += (names.empty() ? "" : ", ") + std::string(field.name) + "=" + field.allowed;
  }
  return names;
}

}  // namespace squat_llama
