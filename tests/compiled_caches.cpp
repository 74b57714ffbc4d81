// Caches of other types than float.
#include <squat/squat.hpp>

namespace squat {

SQUAT_CACHES_OF(double, );
SQUAT_CACHES_OF(Eigen::half, );
SQUAT_CACHES_OF(Eigen::bfloat16, );

}  // namespace squat
