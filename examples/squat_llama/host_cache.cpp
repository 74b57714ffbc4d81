#include "host_cache.hpp"

#include <algorithm>
#include <array>
#include <squat/error.hpp>
#include <utility>

namespace squat_llama {
namespace {

/// Columns [first, first + columns) of a tensor whose rows are tokens.
Eigen::Map<squat::Matrix<float>, 0, Eigen::OuterStride<>> columns(const ggml_tensor* tensor,
                                                                  int64_t tokens, int first,
                                                                  int count) {
  const int64_t width = ggml_nelements(tensor) / tokens;
  return {static_cast<float*>(tensor->data) + first, tokens, count, Eigen::OuterStride<>(width)};
}

}  // namespace

HostCache::HostCache(const ModelConfig& config, int parts) : config_(config) {
  parts = std::clamp(parts, 1, config.kv_heads);
  for (int part = 0; part <= parts; ++part) {
    first_head_.push_back(part * config.kv_heads / parts);
  }
  for (int layer = 0; layer < config.layers; ++layer) calls_.push_back({this, layer});
}

ggml_tensor* HostCache::attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                                  ggml_tensor* value) {
  std::array<ggml_tensor*, 3> states = {query, key, value};
  for (const ggml_tensor* tensor : states) {
    squat::require(tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor),
                   "a cache takes contiguous single-precision states");
  }
  return ggml_custom_4d(graph.context(), GGML_TYPE_F32, config_.query_dim(), graph.tokens(), 1, 1,
                        states.data(), static_cast<int>(states.size()), &HostCache::run, parts(),
                        &calls_[static_cast<size_t>(layer)]);
}

void HostCache::run(ggml_tensor* out, int thread, int threads, void* call) {
  const auto [cache, layer] = *static_cast<Call*>(call);
  for (int part = thread; part < cache->parts(); part += threads) {
    try {
      cache->run_part(layer, part, out);
    } catch (...) {  // must not unwind through ggml; finish() throws it
      const std::lock_guard<std::mutex> lock(cache->failure_mutex_);
      if (!cache->failure_) cache->failure_ = std::current_exception();
    }
  }
}

void HostCache::run_part(int layer, int part, ggml_tensor* out) {
  const int64_t tokens = out->ne[1];
  const int first = first_kv_head(part) * config_.head_dim;
  const int count = kv_heads(part) * config_.head_dim;
  const int group = config_.query_heads / config_.kv_heads;
  attend(layer, part,
         {columns(out->src[0], tokens, first * group, count * group),
          columns(out->src[1], tokens, first, count), columns(out->src[2], tokens, first, count),
          columns(out, tokens, first * group, count * group)});
}

void HostCache::finish(int64_t) {
  if (const std::exception_ptr failure = std::exchange(failure_, nullptr)) {
    std::rethrow_exception(failure);
  }
}

}  // namespace squat_llama
