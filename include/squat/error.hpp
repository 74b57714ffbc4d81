// The library's one way to report an error.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>

namespace squat {

/// Thrown for every error that the library detects: a shape, index, option or number that it cannot
/// take. The message names the argument, the value it had and what is allowed. An object whose call
/// throws is as it was before the call.
///
/// Where exceptions are disabled (-fno-exceptions) the message goes to stderr and the program
/// aborts.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void fail(const std::string& message) {
#if defined(__cpp_exceptions)
  throw Error("squat: " + message);
#else
  std::fprintf(stderr, "squat: %s\n", message.c_str());
  std::abort();
#endif
}

/// Fails with the concatenation of `parts` unless `condition` holds. The parts are only formatted
/// when it does not.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  fail(message.str());
}

}  // namespace squat
