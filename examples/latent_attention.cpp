// Latent attention (MLA of DeepSeek and Kimi), absorbed: one kv head whose values are the first
// channels of its keys. They are stored once.
#include <cstdio>

#include "noise.hpp"

int main() {
  using squat::Index;
  squat::ModelShape shape{/*layers=*/1, /*query_heads=*/16, /*kv_heads=*/1, /*head_dim=*/576};
  shape.value_dim = 512;
  shape.softmax_scale = 0.07;  // of the heads before absorption, not of 576 channels
  constexpr Index tokens = 600;
  const noise::Tokens text = noise::tokens(shape, tokens, 1);
  const squat::Matrix<float> latents = text.keys.leftCols(512), none(tokens, 0);

  Index bytes[2];
  squat::Matrix<float> out(tokens, 16 * 512), outputs[2];
  for (const bool once : {false, true}) {
    shape.values_in_keys = once;
    squat::SQuatCache<float, 2> cache(shape, squat::Config::recommended(4));
    cache.attention(0, squat::Queries(text.queries), squat::Keys(text.keys),
                    squat::Values(once ? none : latents), out);
    outputs[once] = out;
    bytes[once] = cache.memory().codes + cache.memory().scales + cache.memory().residual;
  }
  const float difference = (outputs[0] - outputs[1]).norm() / outputs[0].norm();
  std::printf("%td tokens: %td bytes with values of their own, %td with values in keys\n", tokens,
              bytes[0], bytes[1]);
  std::printf("the prompt's attention, in full precision: %.1e apart\n",
              static_cast<double>(difference));
  return difference < 1e-4f && bytes[1] < bytes[0] ? 0 : 1;
}
