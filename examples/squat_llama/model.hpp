// The weights of a Llama-like model.
#pragma once

#include <string>
#include <vector>

#include "model_config.hpp"

namespace squat_llama {

/// y = weight x + bias. A null bias stands for none.
struct Linear {
  ggml_tensor* weight = nullptr;  ///< [inputs, outputs]
  ggml_tensor* bias = nullptr;    ///< [outputs]
};

struct Layer {
  ggml_tensor* attention_norm = nullptr;
  Linear query, key, value, output;
  ggml_tensor* query_norm = nullptr;  ///< RMS norm of every head; null stands for none
  ggml_tensor* key_norm = nullptr;
  ggml_tensor* feed_forward_norm = nullptr;
  Linear gate, up, down;
};

/// Loads a file; its tensors live as long as the model.
class Model {
 public:
  explicit Model(const std::string& path, Weights weights = Weights::as_stored);

  const ModelConfig& config() const { return config_; }
  const std::vector<Layer>& layers() const { return layers_; }
  ggml_tensor* token_embedding() const { return token_embedding_; }  ///< [embedding, vocabulary]
  ggml_tensor* output_norm() const { return output_norm_; }
  const Linear& output() const { return output_; }  ///< the token embedding where a file ties them
  ggml_tensor* rotary_factors() const { return rotary_factors_; }  ///< null stands for none
  int vocabulary() const { return static_cast<int>(output_.weight->ne[1]); }

 private:
  Linear linear(const std::string& name);

  GgufFile file_;
  ModelConfig config_;
  std::vector<Layer> layers_;
  ggml_tensor* token_embedding_ = nullptr;
  ggml_tensor* output_norm_ = nullptr;
  ggml_tensor* rotary_factors_ = nullptr;
  Linear output_;
};

}  // namespace squat_llama
