// Cross attention (Whisper, T5): keys and values of an encoder are written once, each query sees
// all of them. Here keys are wider than values.
#include <cstdio>

#include "noise.hpp"

int main() {
  using squat::Index;
  squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/8, /*head_dim=*/64};
  shape.value_dim = 32;
  squat::Config config = squat::Config::recommended(3);
  config.squat_lambda = 0;  // no queries shape a metric
  squat::SQuatCache<float, 2> cache(shape, config);
  constexpr Index frames = 1500;
  const noise::Tokens audio = noise::tokens(shape, frames, 1);
  cache.update(0, squat::Keys(audio.keys),
               squat::Values(audio.values.leftCols(shape.kv_heads * shape.value_dim)));
  cache.flush(0);

  float last = 0;
  for (unsigned step = 0; step < 3; ++step) {
    const noise::Tokens decoded = noise::tokens(shape, 2, 10 + step);
    squat::Matrix<float> out(2, shape.query_heads * shape.value_dim);
    squat::CallOptions options;
    options.position = frames;  // the queries' own tokens are elsewhere: they see all of these
    cache.attend(0, decoded.queries, out, options);
    last = out.norm();
    std::printf("step %u: %td frames, output of norm %.3f\n", step, cache.size(0),
                static_cast<double>(last));
  }
  std::printf(
      "%.2f bits an element\n",
      8 * static_cast<double>(cache.memory().total()) /
          static_cast<double>(frames * shape.kv_heads * (shape.head_dim + shape.value_dim)));
  return last > 0 ? 0 : 1;
}
