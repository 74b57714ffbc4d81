// The whole of the library, compiled: what tests/run_tidy checks.
#include <squat/eigen_executor.hpp>
#include <squat/squat.hpp>
#include <squat/thread_executor.hpp>

template class squat::SQuatCache<float, 2>;
template class squat::SQuatCache<double, 3, 4>;
template class squat::SQuatCache<Eigen::half, 8>;
