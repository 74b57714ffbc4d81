// Where Index has 32 bits: a prompt and a decoded token, and a file that was written where it has
// 64. Succeeds if every output is finite, and if the file is written again as it was.
#include <fstream>
#include <iterator>
#include <squat/squat.hpp>
#include <sstream>
#include <string>

static_assert(sizeof(squat::Index) == 4);

namespace {

bool has_finite_outputs() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/4, /*kv_heads=*/2, /*head_dim=*/64};
  squat::SQuatCache<float, 2, 4> cache(shape, squat::Config::recommended());
  using Matrix = squat::Matrix<float>;
  for (const squat::Index tokens : {200, 1}) {
    const Matrix queries = Matrix::Random(tokens, 4 * 64), keys = Matrix::Random(tokens, 2 * 64);
    Matrix out(tokens, 4 * 64);
    cache.attention(0, squat::Queries(queries), squat::Keys(keys), squat::Values(keys), out);
    if (!out.allFinite()) return false;
  }
  return true;
}

/// tests/data/cache4.squat.
bool keeps(const char* path) {
  squat::ModelShape shape{/*layers=*/1, /*query_heads=*/2, /*kv_heads=*/2, /*head_dim=*/8};
  shape.rope.pairing = squat::RopePairing::halves;
  shape.rope.is_applied = true;
  squat::Config config = squat::Config::recommended();
  config.token_group_size = config.residual_length = 32;
  config.subspace_dim = 2;
  config.quant_group_size = 1;
  config.residual_bits = 0;
  squat::SQuatCache<float, 2, 4> cache(shape, config, /*sequences=*/2);
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::istringstream in(bytes);
  cache.load(in);
  std::ostringstream out;
  cache.save(out);
  return out.str() == bytes && cache.keys(0).allFinite();
}

}  // namespace

int main(int count, char** arguments) {
  return count == 2 && has_finite_outputs() && keeps(arguments[1]) ? 0 : 1;
}
