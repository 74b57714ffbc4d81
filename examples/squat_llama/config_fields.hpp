// The fields of squat::Config and of SquatSpec by their names.
#pragma once

#include <string>

#include "squat_spec.hpp"

namespace squat_llama {

/// Sets the field called `name`. An unknown name, or a value that is not one of the field's, is an
/// error that lists the known ones.
void set_squat_field(SquatSpec& spec, const std::string& name, const std::string& value);

/// Every field with what it takes, comma-separated.
std::string squat_field_names();

}  // namespace squat_llama
