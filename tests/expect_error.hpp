// Checks that a call fails with squat::Error, and says enough.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <squat/error.hpp>
#include <string>

namespace squat::testing {

/// The message of the squat::Error that `call` throws; empty, with a failure recorded, if it throws
/// something else or nothing.
template <class Call>
std::string error_message(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& other) {
    ADD_FAILURE() << "throws something else: " << other.what();
    return "";
  }
  ADD_FAILURE() << "throws nothing";
  return "";
}

/// Records a failure unless `message` begins with "squat: " and has every part.
inline void expect_message(const std::string& message, std::initializer_list<const char*> parts) {
  if (message.empty()) return;  // already recorded
  EXPECT_EQ(message.rfind("squat: ", 0), 0u) << message;
  for (const std::string part : parts)
    EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
}

}  // namespace squat::testing

/// `call` fails with squat::Error, whose message has every one of the parts that follow: the
/// argument, its value, what is allowed. A macro for the sake of the line that a failure names.
#define EXPECT_ERROR(call, ...)                                                              \
  do {                                                                                       \
    SCOPED_TRACE(#call);                                                                     \
    ::squat::testing::expect_message(::squat::testing::error_message([&] { (void)(call); }), \
                                     {__VA_ARGS__});                                         \
  } while (false)
