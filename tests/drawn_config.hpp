// Configurations and shapes drawn at random among all that are allowed.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <random>
#include <squat/config.hpp>

namespace squat::testing {

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}

  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[random_() % choices.size()];
  }

  Config config() {
    Config config;
    config.backend = of({Backend::quanto, Backend::hqq, Backend::unbiased});
    config.quant_group_size = of<Index>({1, 2, 3, 4, 8, 12, 16, 64});
    config.token_group_size = of<Index>({32, 64, 128});
    config.key_scales = of({KeyScales::per_channel, KeyScales::per_token});
    const bool per_token = config.key_scales == KeyScales::per_token;
    config.residual_length = config.token_group_size * of<Index>({1, 2});
    config.rolling_residual = !per_token && of({true, false});
    if (per_token) {
      config.residual_length = of<Index>({0, 1, 32, 77});
      config.key_group_size = of<Index>({0, 32, 64, 128, 256, 512});
      config.rotate_keys = of({true, false});
    }
    config.squat_lambda = of({0.0, 0.001, 1.0, 3.0});
    config.subspace_dim = of<Index>({1, 5, 16, 512});
    config.scale_bits = of({8, 16, 32});
    config.normalised_lambda = of({true, false});
    config.adaptive_bits = !per_token && of({true, false});
    config.key_bits = config.adaptive_bits ? of({1.5, 2.3, 3.0, 4.75, 7.0, 8.0})
                                           : of({1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0});
    config.value_bits = of({1, 2, 3, 4, 8});
    config.value_group_size = of<Index>({0, 32, 64, 128, 256, 512});
    config.value_grid = of({ValueGrid::min_max, ValueGrid::symmetric});
    config.rotate_values = of({true, false});
    config.residual_bits = of({0, 8, 16});
    config.full_precision_tokens = of<Index>({0, 1, 5});
    config.query_decay = of({0.0, 0.99, 1.0});
    config.subspace_method = of({SubspaceMethod::eigen, SubspaceMethod::power});
    return config;
  }

  ModelShape shape() {
    const Index kv_heads = of<Index>({1, 2, 3});
    return {1, kv_heads * of<Index>({1, 2, 5}), kv_heads,
            of<Index>({8, 16, 24, 36, 64, 80, 100, 128})};
  }

  /// Of heads of `head_dim`. Half of them turn nothing.
  Rope rope(Index head_dim) {
    Rope rope;
    rope.pairing =
        of({RopePairing::none, RopePairing::none, RopePairing::halves, RopePairing::interleaved});
    rope.first = std::min(of<Index>({0, 0, 2}), (head_dim - 1) / 2 * 2);
    rope.dims = of<Index>({0, 2, 6});
    const Index most = (head_dim - rope.first) / 2 * 2;
    if (rope.dims > most || (head_dim - rope.first) % 2 == 1) rope.dims = most;
    if (most == 0) rope.pairing = RopePairing::none;
    rope.base = of({10000.0, 500.0});
    return rope;
  }

 private:
  std::mt19937 random_;
};

}  // namespace squat::testing
