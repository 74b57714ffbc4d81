// SQuatCache behind the engine's interface.
#pragma once

#include <algorithm>
#include <squat/squat.hpp>
#include <string>

#include "attention_shape.hpp"
#include "host_cache.hpp"
#include "require.hpp"
#include "squat_cache.hpp"

namespace squat_llama {

class SquatCacheAdapter : public HostCache {
 public:
  SquatCacheAdapter(const ModelConfig& model, const SquatSpec& spec, const CacheOptions& options)
      : HostCache(model, options.threads),
        spec_(spec),
        moments_(options.moments),
        cache_(spec.pre_rope ? attention_shape_before_rope(model) : attention_shape(model),
               spec.config, options.sequences) {
    require(!spec.calibrated || moments_ != nullptr,
            "a cache with calibrated=true needs query moments (--moments FILE)");
    cache_.set_executor(executor());
    clear();
  }

  bool applies_rope() const override { return spec_.pre_rope; }

  int64_t size() const override { return size_of(sequence_); }

  void finish(int64_t tokens) override {
    HostCache::finish(tokens);
    decoding_ = decoding_ || tokens == 1;
  }

  void clear() override {
    cache_.clear();
    if (spec_.calibrated) cache_.calibrate(*moments_);
    sequence_ = 0;
    decoding_ = false;
  }

  void next_sequence() override {
    require(sequence_ + 1 < cache_.sequences(), "the cache was made for ", cache_.sequences(),
            " sequences");
    ++sequence_;
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
    cache_.attention(layer, squat::Queries(rows.query), squat::Keys(rows.key),
                     squat::Values(rows.value), rows.out, options());
  }

 private:
  /// A prompt that comes in several passes fits the subspace with all of them.
  squat::CallOptions options() const {
    squat::CallOptions options;
    options.sequence = sequence_;
    options.fit = decoding_ ? squat::FitQueries::first_update : squat::FitQueries::accumulate;
    return options;
  }

  int64_t size_of(squat::Index sequence) const {
    squat::CallOptions options;
    options.sequence = sequence;
    return cache_.size(0, options);
  }

  /// How many tokens' keys and how many tokens' values are packed, together.
  int64_t quantized_rows() const {
    const int64_t residual = cache_.config().residual_length;
    const bool per_token = cache_.config().key_scales == squat::KeyScales::per_token;
    int64_t rows = 0;
    for (squat::Index sequence = 0; sequence < cache_.sequences(); ++sequence) {
      const int64_t size = size_of(sequence), values = std::max<int64_t>(size - residual, 0);
      rows += values + (per_token ? values : size / residual * residual);
    }
    return rows;
  }

  SquatSpec spec_;
  const squat::QueryMoments* moments_;
  squat::SQuatCache<float, 2> cache_;
  squat::Index sequence_ = 0;
  bool decoding_ = false;  ///< a single token came: the prompt is over
};

}  // namespace squat_llama
