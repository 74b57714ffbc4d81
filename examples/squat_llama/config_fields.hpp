// The fields of squat::Config by their names.
#pragma once

#include <squat/config.hpp>
#include <string>

namespace squat_llama {

/// Sets the field called `name`. An unknown name, or a value that is not one of the field's, is an
/// error that lists the known ones.
void set_config_field(squat::Config& config, const std::string& name, const std::string& value);

/// Every field with what it takes, comma-separated.
std::string config_field_names();

}  // namespace squat_llama
