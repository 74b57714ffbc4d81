// The caches that the fuzzer of snapshots loads files into.
#pragma once

#include <squat/squat.hpp>
#include <vector>

#include "../random_matrix.hpp"

namespace squat::testing {

using Cache = SQuatCache<float, 2>;

struct FuzzedCache {
  ModelShape shape;
  Config config;
  Index sequences;
};

/// One of each kind of record, in shapes whose files are small.
inline const std::vector<FuzzedCache>& fuzzed_caches() {
  static const std::vector<FuzzedCache> caches = [] {
    FuzzedCache recommended{{1, 2, 1, 8}, Config::recommended(), 2};
    recommended.config.token_group_size = recommended.config.residual_length = 32;
    recommended.config.subspace_dim = 2;
    recommended.config.quant_group_size = 1;

    FuzzedCache published{{2, 2, 1, 16}, {}, 1};
    published.config.quant_group_size = 8;

    FuzzedCache wide{{1, 2, 2, 8}, {}, 2};
    wide.config.backend = Backend::hqq;
    wide.config.token_group_size = wide.config.residual_length = 64;
    wide.config.scale_bits = 32;
    wide.config.key_bits = 5.5;
    wide.config.adaptive_bits = true;
    wide.config.value_bits = 3;
    wide.config.quant_group_size = 2;
    wide.config.full_precision_tokens = 5;
    wide.config.query_decay = 0.9;
    wide.config.shared_svd = false;

    FuzzedCache turned{{1, 3, 1, 16}, {}, 1};
    turned.shape.rope.pairing = RopePairing::halves;
    turned.config.arithmetic = Arithmetic::dequantized;
    turned.config.scale_bits = 8;
    return std::vector<FuzzedCache>{recommended, published, wide, turned};
  }();
  return caches;
}

/// Appends `count` tokens, the first of them padding, and flushes.
inline void feed(Cache& cache, Index sequence, Index count, unsigned seed) {
  const Index width = cache.shape().head_dim;
  std::vector<std::uint8_t> valid(static_cast<std::size_t>(count), 1);
  valid[0] = 0;
  CallOptions options;
  options.sequence = sequence;
  options.mask = valid;
  for (Index layer = 0; layer < cache.shape().layers; ++layer) {
    const Matrix<float> kv = random_matrix<float>(count, cache.shape().kv_heads * width, seed);
    cache.update(layer,
                 Queries(random_matrix<float>(count, cache.shape().query_heads * width, seed + 1)),
                 Keys(kv), Values(kv), options);
    cache.flush(layer, {options.sequence});
  }
}

}  // namespace squat::testing
