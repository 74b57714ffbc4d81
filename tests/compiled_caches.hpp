// Before every source of the tests: caches that compiled_caches.cpp compiles once for all of them.
#pragma once

#include <squat/squat.hpp>

namespace squat {

SQUAT_CACHES_OF(double, extern);
SQUAT_CACHES_OF(Eigen::half, extern);
SQUAT_CACHES_OF(Eigen::bfloat16, extern);

}  // namespace squat
