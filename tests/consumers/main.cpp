// A prompt and a few decoded tokens through a cache: succeeds if every output is finite.
#include <limits>
#include <squat/squat.hpp>

int main() {
  const squat::ModelShape shape{/*layers=*/2, /*query_heads=*/4, /*kv_heads=*/2, /*head_dim=*/64};
  const squat::Config config;
  squat::SQuatCache<float, 2> cache(shape, config);

  using Matrix = squat::Matrix<float>;
  for (const squat::Index tokens : {80, 1, 1, 1}) {
    for (squat::Index layer = 0; layer < shape.layers; ++layer) {
      const Matrix queries = Matrix::Random(tokens, shape.query_heads * shape.head_dim);
      const Matrix keys = Matrix::Random(tokens, shape.kv_heads * shape.head_dim);
      const Matrix values = Matrix::Random(tokens, shape.kv_heads * shape.head_dim);
      Matrix out = Matrix::Constant(tokens, shape.query_heads * shape.head_dim,
                                    std::numeric_limits<float>::quiet_NaN());
      cache.attention(layer, squat::Queries(queries), squat::Keys(keys), squat::Values(values),
                      out);
      if (!out.allFinite()) return 1;
    }
  }
  return cache.size(0) == 83 ? 0 : 1;
}
