// How the program reports errors.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace squat_llama {

[[noreturn]] inline void fail(const std::string& message) { throw std::runtime_error(message); }

/// Fails with the concatenation of `parts` unless `condition` holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  fail(message.str());
}

}  // namespace squat_llama
