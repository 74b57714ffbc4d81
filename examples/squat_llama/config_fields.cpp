#include "config_fields.hpp"

#include <charconv>
#include <type_traits>

namespace squat_llama {
namespace {

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

bool parse(const std::string& text, squat::ValueGrid& grid) {
  grid = text == "symmetric" ? squat::ValueGrid::symmetric : squat::ValueGrid::min_max;
  return text == "symmetric" || text == "min_max";
}

bool parse(const std::string& text, squat::Arithmetic& arithmetic) {
  arithmetic = text == "exact" ? squat::Arithmetic::exact : squat::Arithmetic::fast;
  return text == "exact" || text == "fast";
}

template <class Value>
constexpr const char* allowed() {
  if (std::is_same_v<Value, bool>) return "true|false";
  if (std::is_same_v<Value, squat::Backend>) return "quanto|hqq|unbiased";
  if (std::is_same_v<Value, squat::ValueGrid>) return "min_max|symmetric";
  if (std::is_same_v<Value, squat::Arithmetic>) return "fast|exact";
  return std::is_integral_v<Value> ? "INTEGER" : "NUMBER";
}

struct Field {
  const char* name;
  const char* allowed;
  bool (*set)(squat::Config& config, const std::string& value);
};

template <auto member>
constexpr Field field(const char* name) {
  using Value = std::decay_t<decltype(squat::Config{}.*member)>;
  return {name, allowed<Value>(), [](squat::Config& config, const std::string& value) {
            return parse(value, config.*member);
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
    field<&squat::Config::key_bits>("key_bits"),
    field<&squat::Config::adaptive_bits>("adaptive_bits"),
    field<&squat::Config::value_bits>("value_bits"),
    field<&squat::Config::value_group_size>("value_group_size"),
    field<&squat::Config::value_grid>("value_grid"),
    field<&squat::Config::rotate_values>("rotate_values"),
    field<&squat::Config::exact_tokens>("exact_tokens"),
    field<&squat::Config::query_decay>("query_decay"),
    field<&squat::Config::arithmetic>("arithmetic"),
};

}  // namespace

void set_config_field(squat::Config& config, const std::string& name, const std::string& value) {
  for (const Field& field : kFields) {
    if (field.name != name) continue;
    squat::require(field.set(config, value), "'", name, "' is '", value, "'; it must be ",
                   field.allowed);
    return;
  }
  squat::fail("a SQuat cache has no field '" + name + "'; known are " + config_field_names());
}

std::string config_field_names() {
  std::string names;
  for (const Field& field : kFields) {
    names += (names.empty() ? "" : ", ") + std::string(field.name) + "=" + field.allowed;
  }
  return names;
}

}  // namespace squat_llama
