// Caches that compute attention themselves: a custom operation of the graph calls them.
#pragma once

#include <exception>
#include <mutex>
#include <squat/matrix.hpp>
#include <vector>

#include "kv_cache.hpp"

namespace squat_llama {

class HostCache : public KvCache {
 public:
  ggml_tensor* attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                         ggml_tensor* value) final;
  bool stores_by_attending() const final { return true; }
  void finish(int64_t tokens) override;

 protected:
  /// Attention of a layer is split by kv heads into `parts`, which run at the same time.
  HostCache(const ModelConfig& config, int parts);

  /// What one part works on. Rows are tokens; columns are the part's own heads, one after another.
  struct Rows {
    squat::MatrixView<float> query;
    squat::MatrixView<float> key;
    squat::MatrixView<float> value;
    squat::MutableMatrixView<float> out;
  };

  /// Appends keys and values, and attends. Called in the order of the layers.
  virtual void attend(int layer, int part, Rows rows) = 0;

  const ModelConfig& config() const { return config_; }
  int parts() const { return static_cast<int>(first_head_.size()) - 1; }
  int first_kv_head(int part) const { return first_head_[static_cast<size_t>(part)]; }
  int kv_heads(int part) const { return first_kv_head(part + 1) - first_kv_head(part); }

 private:
  struct Call {
    HostCache* cache;
    int layer;
  };
  static void run(ggml_tensor* out, int thread, int threads, void* call);
  void run_part(int layer, int part, ggml_tensor* out);

  ModelConfig config_;
  std::vector<int> first_head_;
  std::vector<Call> calls_;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace squat_llama
