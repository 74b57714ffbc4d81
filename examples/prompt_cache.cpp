// A prompt that is read once: saved to a file, loaded into another cache, and continued there. The
// output is the same, bit for bit.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "noise.hpp"

int main() {
  const squat::ModelShape shape{/*layers=*/2, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  const squat::Config config = squat::Config::recommended(2.5);
  squat::SQuatCache<float, 2> cache(shape, config), later(shape, config);
  const noise::Tokens prompt = noise::tokens(shape, 2000, 1);
  for (squat::Index layer = 0; layer < shape.layers; ++layer) {
    cache.update(layer, squat::Queries(prompt.queries), squat::Keys(prompt.keys),
                 squat::Values(prompt.values));
    cache.flush(layer);
  }

  const std::filesystem::path path = "prompt_cache.squat";
  std::ofstream out_file(path, std::ios::binary);
  cache.save(out_file);
  out_file.close();
  std::ifstream in_file(path, std::ios::binary);
  later.load(in_file);
  in_file.close();
  const auto bytes = static_cast<double>(std::filesystem::file_size(path));
  std::filesystem::remove(path);

  squat::Matrix<float> out(1, prompt.queries.cols()), out_later = out;
  squat::Index same = 0;
  for (unsigned token = 0; token < 200; ++token)
    for (squat::Index layer = 0; layer < shape.layers; ++layer) {
      const noise::Tokens next = noise::tokens(shape, 1, 2 + token);
      cache.attention(layer, squat::Queries(next.queries), squat::Keys(next.keys),
                      squat::Values(next.values), out);
      later.attention(layer, squat::Queries(next.queries), squat::Keys(next.keys),
                      squat::Values(next.values), out_later);
      same += out == out_later ? 1 : 0;
    }
  const double half = 2.0 * 2 * static_cast<double>(shape.layers * prompt.keys.size());
  std::printf("the file has %.0f bytes, %.0f %% of float16; %td of 400 outputs are the same\n",
              bytes, 100 * bytes / half, same);
  return same == 400 ? 0 : 1;
}
