#include <squat/squat.hpp>

squat::SQuatCache<float, 2> prompted_cache(const squat::ModelShape& shape) {
  squat::SQuatCache<float, 2> cache(shape, squat::Config{});
  const squat::Matrix<float> queries = squat::Matrix<float>::Random(40, 128);
  const squat::Matrix<float> keys = squat::Matrix<float>::Random(40, 64);
  squat::Matrix<float> out(40, 128);
  cache.attention(0, queries, keys, keys, out);
  return cache;
}
