// SQuatCache behind the engine's interface.
#pragma once

#include <algorithm>
#include <squat/squat.hpp>
#include <string>
#include <vector>

#include "host_cache.hpp"

namespace squat_llama {

/// The shape of the attention whose kv heads are `kv_heads` of the model's.
inline squat::ModelShape attention_shape(const ModelConfig& model, int kv_heads) {
  squat::ModelShape shape;
  shape.layers = model.layers;
  shape.query_heads = kv_heads * (model.query_heads / model.kv_heads);
  shape.kv_heads = kv_heads;
  shape.head_dim = model.head_dim;
  return shape;
}

/// Heads do not know of each other, so each thread has a SQuatCache with a share of them.
class SquatCacheAdapter : public HostCache {
 public:
  SquatCacheAdapter(const ModelConfig& model, const squat::Config& config, int threads)
      : HostCache(model, threads) {
    caches_.reserve(static_cast<std::size_t>(parts()));
    for (int part = 0; part < parts(); ++part) {
      caches_.emplace_back(attention_shape(model, kv_heads(part)), config);
    }
  }

  int64_t size() const override { return caches_.front().size(0); }

  void finish(int64_t tokens) override {
    HostCache::finish(tokens);
    decoding_ = decoding_ || tokens == 1;
  }

  void clear() override {
    for (auto& cache : caches_) cache.clear();
    decoding_ = false;
  }

  CacheBytes bytes() const override {
    CacheBytes bytes;
    for (const auto& cache : caches_) {
      const squat::MemoryUsage usage = cache.memory();
      bytes.codes += static_cast<double>(usage.codes);
      bytes.scales += static_cast<double>(usage.scales + usage.headers);
      bytes.reserved += static_cast<double>(usage.reserved);
      bytes.residual += static_cast<double>(usage.residual);
      bytes.other += static_cast<double>(usage.subspace + usage.bookkeeping);
    }
    bytes.elements = static_cast<double>(quantized_rows() * config().kv_dim() * config().layers);
    return bytes;
  }

 protected:
  void attend(int layer, int part, Rows rows) override {
    caches_[static_cast<std::size_t>(part)].attention(layer, rows.query, rows.key, rows.value,
                                                      rows.out, options());
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
    const int64_t residual = caches_.front().config().residual_length;
    return size() / residual * residual + std::max<int64_t>(size() - residual, 0);
  }

  std::vector<squat::SQuatCache<float, 2>> caches_;
  bool decoding_ = false;  ///< a single token came: the prompt is over
};

}  // namespace squat_llama
