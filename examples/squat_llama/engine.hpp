// The forward pass.
#pragma once

#include <ggml-cpp.h>

#include <squat/matrix.hpp>
#include <vector>

#include "kv_cache.hpp"
#include "model.hpp"

namespace squat_llama {

using Token = int;

/// Runs a model on the CPU. The keys and values of what it has read are in the cache alone, so one
/// engine serves any number of caches.
class Engine {
 public:
  Engine(const Model& model, int threads);

  /// Reads `tokens` after what the cache holds. Returns the logits [rows, vocabulary] of the last
  /// `rows` tokens.
  squat::Matrix<float> forward(const std::vector<Token>& tokens, KvCache& cache, int64_t rows = 1);

  /// Reads a prompt in passes of at most `batch` tokens, or in one if that is 0. Returns the logits
  /// [1, vocabulary] of its last token.
  squat::Matrix<float> read_prompt(const std::vector<Token>& prompt, KvCache& cache, int batch);

  const Model& model() const { return model_; }
  int threads() const { return threads_; }

 private:
  struct Inputs;

  ggml_tensor* build(Graph& graph, KvCache& cache, const Inputs& inputs) const;
  ggml_tensor* attention_block(Graph& graph, KvCache& cache, int layer, ggml_tensor* x) const;

  struct ThreadpoolDeleter {
    void operator()(ggml_threadpool* pool) const;
  };

  const Model& model_;
  int threads_;
  ggml_backend_ptr backend_;
  std::unique_ptr<ggml_threadpool, ThreadpoolDeleter> threadpool_;
  ggml_gallocr_ptr allocator_;
};

}  // namespace squat_llama
