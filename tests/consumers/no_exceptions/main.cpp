// Built with -fno-exceptions: an error prints its message and aborts.
#include <squat/eigen_executor.hpp>
#include <squat/squat.hpp>
#include <squat/thread_executor.hpp>

int main() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/3, /*kv_heads=*/2, /*head_dim=*/64};
  squat::SQuatCache<float, 2> cache(shape, squat::Config{});
}
