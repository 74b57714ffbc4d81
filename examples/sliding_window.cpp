// A model most of whose layers see a window of tokens, as Gemma's do: these layers drop what no
// later query sees, and their memory stops growing.
#include <cstdio>

#include "noise.hpp"

int main() {
  squat::ModelShape shape{/*layers=*/4, /*query_heads=*/4, /*kv_heads=*/1, /*head_dim=*/64};
  const squat::Config config = squat::Config::recommended(2.5);
  squat::SQuatCache<float, 2> full(shape, config);
  shape.by_layer.assign(4, shape);
  for (squat::Index layer = 0; layer < 3; ++layer)
    shape.by_layer[layer].window = 256;  // the last layer sees everything
  squat::SQuatCache<float, 2> windowed(shape, config);

  constexpr squat::Index chunk = 64;
  squat::Index most_held = 0;
  const auto append = [&](unsigned chunks) {
    squat::Matrix<float> out(chunk, shape.query_heads * shape.head_dim);
    for (unsigned i = 0; i < chunks; ++i)
      for (squat::Index layer = 0; layer < shape.layers; ++layer) {
        const noise::Tokens next = noise::tokens(shape, chunk, i);
        full.attention(layer, squat::Queries(next.queries), squat::Keys(next.keys),
                       squat::Values(next.values), out);
        windowed.attention(layer, squat::Queries(next.queries), squat::Keys(next.keys),
                           squat::Values(next.values), out);
        if (layer == 0) most_held = std::max(most_held, windowed.size(0) - windowed.first(0));
      }
  };
  append(16);
  const squat::Index full_before = full.memory().total();
  const squat::Index windowed_before = windowed.memory().total();
  append(16);
  const squat::Index full_growth = full.memory().total() - full_before;
  const squat::Index growth = windowed.memory().total() - windowed_before;
  std::printf("a layer with a window of 256 tokens holds %td of %td at most\n", most_held,
              windowed.size(0));
  std::printf("tokens 1025 to 2048 add %td bytes; without windows %td\n", growth, full_growth);
  // One layer of four still grows.
  const bool is_bounded = most_held <= 256 + config.residual_length + config.token_group_size;
  return is_bounded && growth < full_growth / 3 ? 0 : 1;
}
