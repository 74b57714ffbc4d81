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
    bytes.scales = static_cast<double>(usage.scales + usage.headers);
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

  squat::SQuatCache<float, 2> cache_;
  bool decoding_ = false;  ///< a single token came: the prompt is over
};

}  // namespace squat_llama
