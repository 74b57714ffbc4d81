// Bits divided among layers: what an error in each layer costs is measured, and divide_bits() puts
// the same bits where they help most.
#include <cstdio>

#include "noise.hpp"

int main() {
  const squat::ModelShape shape{/*layers=*/4, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  // Harm and bytes of a cache. It stands for a run of the model, whose first layers matter most.
  const auto measure = [&](const squat::Config& config) {
    squat::SQuatCache<float, 2> cache(shape, config);
    double harm = 0;
    for (squat::Index layer = 0; layer < shape.layers; ++layer) {
      const noise::Tokens text = noise::tokens(shape, 512, static_cast<unsigned>(layer));
      squat::Matrix<float> exact(64, text.queries.cols()), out = exact;
      cache.update(layer, squat::Queries(text.queries), squat::Keys(text.keys),
                   squat::Values(text.values));
      cache.attend(layer, text.queries.bottomRows(64), exact);  // nothing is quantized yet
      cache.flush(layer);
      cache.attend(layer, text.queries.bottomRows(64), out);
      harm += std::pow(0.1, layer) * static_cast<double>((out - exact).squaredNorm());
    }
    const squat::MemoryUsage memory = cache.memory();
    return std::pair(harm, memory.codes + memory.scales + memory.headers);
  };

  std::vector<squat::LayerCost> costs(4);
  for (std::size_t layer = 0; layer < costs.size(); ++layer) {
    squat::Config keys = squat::Config::recommended(8);  // nearly exact but for one layer
    keys.layer_bits.resize(costs.size());
    squat::Config values = keys;
    keys.layer_bits[layer].keys = squat::LayerCost::key_bits;
    values.layer_bits[layer].values = squat::LayerCost::value_bits;
    costs[layer] = {measure(keys).first, measure(values).first};
  }
  const squat::Config divided = squat::divide_bits(3, costs);
  const auto [even_harm, even_bytes] = measure(squat::Config::recommended(3));
  const auto [harm, bytes] = measure(divided);
  for (const squat::LayerBits& bits : divided.layer_bits)
    std::printf("%.3f/%d ", bits.keys, bits.values);
  std::printf("bits of keys/values: harm %.3f in %td bytes; alike: %.3f in %td\n", harm, bytes,
              even_harm, even_bytes);
  // Keys, which have more of the bits now, are quantized a block before values.
  return harm < even_harm && 50 * bytes < 51 * even_bytes ? 0 : 1;
}
