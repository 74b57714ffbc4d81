#include "model.hpp"

#include "require.hpp"

namespace squat_llama {

Model::Model(const std::string& path, Weights weights)
    : file_(path, weights), config_(read_model_config(file_)) {
  token_embedding_ = file_.tensor("token_embd.weight");
  output_norm_ = file_.tensor("output_norm.weight");
  rotary_factors_ = file_.find_tensor("rope_freqs.weight");
  if (rotary_factors_ != nullptr) {
    const auto* factors = static_cast<const float*>(rotary_factors_->data);
    require(rotary_factors_->type == GGML_TYPE_F32, path,
            ": rope_freqs.weight is not in single precision");
    config_.rotary.factors.assign(factors, factors + ggml_nelements(rotary_factors_));
  }
  output_.weight = file_.find_tensor("output.weight");
  output_.bias = file_.find_tensor("output.bias");
  if (output_.weight == nullptr) output_.weight = token_embedding_;

  for (int i = 0; i < config_.layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    Layer layer;
    layer.attention_norm = file_.tensor(block + "attn_norm.weight");
    layer.query = linear(block + "attn_q");
    layer.key = linear(block + "attn_k");
    layer.value = linear(block + "attn_v");
    layer.output = linear(block + "attn_output");
    layer.query_norm = file_.find_tensor(block + "attn_q_norm.weight");
    layer.key_norm = file_.find_tensor(block + "attn_k_norm.weight");
    layer.feed_forward_norm = file_.tensor(block + "ffn_norm.weight");
    layer.gate = linear(block + "ffn_gate");
    layer.up = linear(block + "ffn_up");
    layer.down = linear(block + "ffn_down");
    require(layer.query.weight->ne[1] == config_.query_dim() &&
                layer.key.weight->ne[1] == config_.kv_dim() &&
                layer.value.weight->ne[1] == config_.kv_dim(),
            path, ": layer ", i, " projects to ", layer.query.weight->ne[1], ", ",
            layer.key.weight->ne[1], " and ", layer.value.weight->ne[1],
            " channels; the metadata says ", config_.query_dim(), ", ", config_.kv_dim(), " and ",
            config_.kv_dim());
    layers_.push_back(layer);
  }

  const std::vector<std::string> unread = file_.unread_tensors();
  require(unread.empty(), path, " has ", unread.size(),
          " tensors that the engine would leave out, among them ",
          unread.empty() ? "" : unread.front());
}

Linear Model::linear(const std::string& name) {
  return {file_.tensor(name + ".weight"), file_.find_tensor(name + ".bias")};
}

}  // namespace squat_llama
