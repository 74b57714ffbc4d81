// Both units instantiate the library: linking them fails if a definition is not inline.
#include <squat/squat.hpp>

squat::SQuatCache<float, 2> prompted_cache(const squat::ModelShape& shape);

int main() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/2, /*kv_heads=*/1, /*head_dim=*/64};
  squat::SQuatCache<float, 2> cache = prompted_cache(shape);
  const squat::Matrix<float> queries = squat::Matrix<float>::Random(1, 128);
  const squat::Matrix<float> keys = squat::Matrix<float>::Random(1, 64);
  squat::Matrix<float> out(1, 128);
  cache.attention(0, queries, keys, keys, out);
  return out.allFinite() ? 0 : 1;
}
