#include "host_cache.hpp"

#include <array>
#include <utility>

#include "require.hpp"

namespace squat_llama {
namespace {

/// [tokens, heads * head_dim], whatever the heads are called.
Eigen::Map<squat::Matrix<float>> rows_of(const ggml_tensor* tensor, int64_t tokens) {
  return {static_cast<float*>(tensor->data), tokens, ggml_nelements(tensor) / tokens};
}

}  // namespace

HostCache::HostCache(const ModelConfig& config, int threads)
    : config_(config), threads_(threads), team_(threads) {
  for (int layer = 0; layer < config.layers; ++layer) calls_.push_back({this, layer});
}

ggml_tensor* HostCache::attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                                  ggml_tensor* value) {
  std::array<ggml_tensor*, 3> states = {query, key, value};
  for (const ggml_tensor* tensor : states) {
    require(tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor),
            "a cache takes contiguous single-precision states");
  }
  return ggml_custom_4d(graph.context(), GGML_TYPE_F32, config_.query_dim(), graph.tokens(), 1, 1,
                        states.data(), static_cast<int>(states.size()), &HostCache::run, threads_,
                        &calls_[static_cast<size_t>(layer)]);
}

void HostCache::run(ggml_tensor* out, int thread, int, void* call) {
  const auto [cache, layer] = *static_cast<Call*>(call);
  if (thread >= cache->threads_) return;
  if (thread > 0) {
    cache->team_.help(thread);
  } else {
    cache->team_.lead([cache = cache, layer = layer, out] { cache->run_alone(layer, out); });
  }
}

void HostCache::run_alone(int layer, ggml_tensor* out) {
  const int64_t tokens = out->ne[1];
  try {
    attend(layer, {rows_of(out->src[0], tokens), rows_of(out->src[1], tokens),
                   rows_of(out->src[2], tokens), rows_of(out, tokens)});
  } catch (...) {  // must not unwind through ggml; finish() throws it
    if (!failure_) failure_ = std::current_exception();
  }
}

void HostCache::finish(int64_t) {
  if (const std::exception_ptr failure = std::exchange(failure_, nullptr)) {
    std::rethrow_exception(failure);
  }
}

}  // namespace squat_llama
