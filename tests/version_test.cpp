// The version in the headers is that of the packages.
#include <gtest/gtest.h>

#include <squat/version.hpp>
#include <string>

namespace squat::testing {
namespace {

TEST(Version, IsThatOfTheProject) {
  EXPECT_EQ(std::to_string(SQUAT_VERSION_MAJOR) + "." + std::to_string(SQUAT_VERSION_MINOR) + "." +
                std::to_string(SQUAT_VERSION_PATCH),
            SQUAT_PROJECT_VERSION);
}

}  // namespace
}  // namespace squat::testing
