// Caches that compute attention themselves: a custom operation of the graph calls them.
#pragma once

#include <exception>
#include <squat/matrix.hpp>
#include <vector>

#include "kv_cache.hpp"
#include "team_executor.hpp"

namespace squat_llama {

class HostCache : public KvCache {
 public:
  ggml_tensor* attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                         ggml_tensor* value) final;
  bool stores_by_attending() const final { return true; }
  void finish(int64_t tokens) override;

 protected:
  /// `threads` is the most that the engine computes with.
  HostCache(const ModelConfig& config, int threads);

  /// Rows are tokens; columns are heads, one after another.
  struct Rows {
    squat::MatrixView<float> query;
    squat::MatrixView<float> key;
    squat::MatrixView<float> value;
    squat::MutableMatrixView<float> out;
  };

  /// Appends keys and values, and attends. Called in the order of the layers, on one thread; the
  /// engine's others are behind executor().
  virtual void attend(int layer, Rows rows) = 0;

  const ModelConfig& config() const { return config_; }
  squat::Executor& executor() { return team_; }

 private:
  struct Call {
    HostCache* cache;
    int layer;
  };
  static void run(ggml_tensor* out, int thread, int threads, void* call);
  void run_alone(int layer, ggml_tensor* out);

  ModelConfig config_;
  int threads_;
  TeamExecutor team_;
  std::vector<Call> calls_;
  std::exception_ptr failure_;
};

}  // namespace squat_llama
