// SQuatCache behind the engine's interface.
#pragma once

#include <algorithm>
#include <squat/squat.hpp>
#include <string>

#include "host_cache.hpp"

namespace squat_llama {

inline squat::ModelShape attention_shape(const ModelConfig& model) {
  squat::ModelShape shape;
  shape.layers = model.layers;
  shape.query_heads = model.query_heads;
  shape.kv_heads = model.kv_heads;
  shape.head_dim = model.head_dim;
  return shape;
}

template <int KeyBits, int ValueBits>
class SquatCacheAdapter : public HostCache {
 public:
  SquatCacheAdapter(const ModelConfig& model, const squat::Config& config, int threads)
      : HostCache(model, threads), cache_(attention_shape(model), config) {
    cache_.set_executor(executor());
  }

  int64_t size() const override { return cache_.size(0); }

  void finish(int64_t tokens) override {
    HostCache::finish(tokens);
    decoding_ = decoding_ || tokens == 1;
  }

  void clear() override {
    cache_.clear();
    decoding_ = false;
  }

  CacheBytes bytes() const override {
    const squat::MemoryUsage usage = cache_.memory();
    CacheBytes bytes;
    bytes.codes = static_cast<double>(usage.codes);
    bytes.scales = static_cast<double>(usage.scales);
    bytes.reserved = static_cast<double>(usage.reserved);
    bytes.residual = static_cast<double>(usage.residual);
    bytes.other = static_cast<double>(usage.subspace + usage.bookkeeping);
    bytes.elements = static_cast<double>(quantized_rows() * config().kv_dim() * config().layers);
    return bytes;
  }

 protected:
  void attend(int layer, Rows rows) override {
    cache_.attention(layer, rows.query, rows.key, rows.value, rows.out, options());
  }

 private:
  /// A prompt that comes in several passes fits the subspace with all of them.
  squat::CallOptions options() const {
    squat::CallOptions options;
    options.fit = decoding_ ? squat::FitQueries::first_update : squat::FitQueries::accumulate;
    return options;
  }

  /// How many tokens' keys and how many tokens' values are packed, together.
  int64_t quantized_rows() const {
    const int64_t residual = cache_.config().residual_length;
    return size() / residual * residual + std::max<int64_t>(size() - residual, 0);
  }

  squat::SQuatCache<float, KeyBits, ValueBits> cache_;
  bool decoding_ = false;  ///< a single token came: the prompt is over
};

template <int KeyBits>
std::unique_ptr<KvCache> make_squat_cache_adapter(const ModelConfig& model,
                                                  const squat::Config& config, int value_bits,
                                                  int threads) {
  switch (value_bits) {
    case 2:
      return std::make_unique<SquatCacheAdapter<KeyBits, 2>>(model, config, threads);
    case 3:
      return std::make_unique<SquatCacheAdapter<KeyBits, 3>>(model, config, threads);
    case 4:
      return std::make_unique<SquatCacheAdapter<KeyBits, 4>>(model, config, threads);
    case 8:
      return std::make_unique<SquatCacheAdapter<KeyBits, 8>>(model, config, threads);
    default:
      break;
  }
  squat::fail("bits of values are " + std::to_string(value_bits) + "; known are 2, 3, 4, 8");
}

}  // namespace squat_llama
