// A cache of rotated Lloyd-Max codes. It shows their quality; it is not built for speed.
#pragma once

#include <memory>

#include "host_cache.hpp"
#include "turbo_codec.hpp"

namespace squat_llama {

/// Every token is quantized as it comes. The first pass, the prompt, attends to itself exactly.
class TurboCache : public HostCache {
 public:
  TurboCache(const ModelConfig& config, int bits, int threads);

  void finish(int64_t tokens) override;
  int64_t size() const override { return size_; }
  void clear() override;
  CacheBytes bytes() const override;

 protected:
  void attend(int layer, Rows rows) override;

 private:
  /// Encoded rows of one layer and kv head.
  struct Head {
    std::vector<std::uint8_t> keys;
    std::vector<std::uint8_t> values;
  };
  void attend_head(Head& head, Rows& rows, squat::Index kv_head) const;
  void append(const squat::Matrix<float>& rotated, std::vector<std::uint8_t>& rows) const;
  squat::Matrix<float> decode(const std::vector<std::uint8_t>& rows) const;

  TurboCodec codec_;
  int64_t size_ = 0;
  std::vector<Head> heads_;  ///< [layers, kv_heads]
};

}  // namespace squat_llama
