// The whole of the library, compiled: what compilers warn about, and tests/run_tidy checks. The
// static analyzer looks at the code for one type of numbers: it takes minutes for each.
#include <squat/eigen_executor.hpp>
#include <squat/squat.hpp>
#include <squat/thread_executor.hpp>

template class squat::SQuatCache<float, 2>;
#if !defined(__clang_analyzer__)
template class squat::SQuatCache<double, 3, 4>;
template class squat::SQuatCache<Eigen::half, 8>;
#endif
