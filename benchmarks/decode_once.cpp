// Decodes REPEATS tokens over a packed cache and exits: what benchmarks/instructions counts.
#include <cstdio>
#include <cstdlib>
#include <squat/squat.hpp>
#include <string>

namespace {

constexpr squat::Index tokens = 2048;

int run(const squat::ModelShape& shape, squat::Config config, int repeats) {
  if (!config.adaptive_bits) config.squat_lambda = 0;  // encoding is not what is counted
  squat::SQuatCache<float, 2> cache(shape, config);
  const squat::Index q_width = shape.query_heads * shape.head_dim;
  const squat::Index kv_width = shape.kv_heads * shape.head_dim;
  const squat::Matrix<float> queries = squat::Matrix<float>::Random(64, q_width);
  const squat::Matrix<float> keys = squat::Matrix<float>::Random(64, kv_width);
  const squat::Matrix<float> values = squat::Matrix<float>::Random(64, kv_width);
  for (squat::Index token = 0; token < tokens; token += 64)
    cache.update(0, squat::Queries(queries), squat::Keys(keys), squat::Values(values));
  cache.flush(0);
  squat::Matrix<float> out(1, q_width);
  for (int i = 0; i < repeats; ++i) cache.attend(0, queries.topRows(1), out);
  std::printf("%ld tokens, output norm %g\n", static_cast<long>(tokens),
              static_cast<double>(out.norm()));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: decode_once BITS QUERY_HEADS KV_HEADS HEAD_DIM REPEATS\n");
    return 2;
  }
  const squat::ModelShape shape{1, std::atol(argv[2]), std::atol(argv[3]), std::atol(argv[4])};
  const int repeats = std::atoi(argv[5]);
  const std::string bits = argv[1];
  if (bits.back() == '+')  // as in 2.5+: the recommended setting
    return run(shape, squat::Config::recommended(std::atof(bits.c_str())), repeats);
  squat::Config config;
  config.key_bits = config.value_bits = std::atoi(bits.c_str());
  return run(shape, config, repeats);
}
