// The attention of a model, as its graph shows it: the shape of a cache, or why there can be none.
#pragma once

#include <llama.h>

#include <cstdlib>
#include <squat/config.hpp>
#include <squat/llama_cpp/attention_node.hpp>
#include <string>
#include <vector>

namespace squat::llama_cpp {

/// Value of a key of the model's metadata, or "" where it has none.
inline std::string metadata(const llama_model* model, const std::string& key) {
  std::array<char, 256> value;
  const std::int32_t length =
      llama_model_meta_val_str(model, key.c_str(), value.data(), value.size());
  return length < 0 ? std::string() : std::string(value.data());
}

inline std::string architecture(const llama_model* model) {
  return metadata(model, "general.architecture");
}

/// Value of `key` under the name of the model's architecture.
inline std::string architecture_metadata(const llama_model* model, const std::string& key) {
  return metadata(model, architecture(model) + "." + key);
}

/// One layer that keeps keys and values, in the order in which the graph computes them.
struct AttentionLayer {
  const ggml_tensor* key_cells;    ///< [kv heads * head_dim, cells]
  const ggml_tensor* value_cells;  ///< [kv heads * head_dim, cells]
  const ggml_tensor* mask;         ///< the same for layers that see the same tokens
};

/// What a graph of one token says of the attention of a model. Gathers its nodes, then checks.
class ModelAttention {
 public:
  void add(const ggml_tensor& node) { nodes_.emplace_back(node); }

  std::vector<AttentionLayer> layers() const {
    std::vector<AttentionLayer> layers;
    for (const AttentionNode& node : nodes_)
      layers.push_back(
          {AttentionNode::cells(node.keys), AttentionNode::cells(node.values), node.mask});
    return layers;
  }

  /// The shape of the model's cache. Fails on attention that a cache cannot compute, naming it.
  ModelShape shape(const llama_model* model) const {
    const Index layers = static_cast<Index>(nodes_.size());
    require(layers == llama_model_n_layer(model), "the model's graph has ", layers,
            " attention operators that keep keys and values; its ", llama_model_n_layer(model),
            " layers should have one each");
    const AttentionNode& first = nodes_.front();
    for (std::size_t layer = 0; layer < nodes_.size(); ++layer) check(nodes_[layer], layer);
    ModelShape shape{layers, first.queries->ne[2], first.keys->ne[2], first.keys->ne[0]};
    shape.softmax_scale = static_cast<double>(first.scale);
    const std::vector<Index> windows = this->windows(model);
    if (!windows.empty()) shape.by_layer.assign(windows.size(), shape);
    for (std::size_t layer = 0; layer < windows.size(); ++layer)
      shape.by_layer[layer].window = windows[layer];
    squat::detail::check(shape);
    return shape;
  }

 private:
  void check(const AttentionNode& node, std::size_t layer) const {
    const AttentionNode& first = nodes_.front();
    const std::string where = "layer " + std::to_string(layer) + " of the model ";
    require(node.soft_cap == 0, where, "caps its attention scores (at ", node.soft_cap,
            "); a cache does not");
    require(node.max_bias == 0, where, "has ALiBi (max_bias ", node.max_bias,
            "); a cache has no bias by position");
    require(node.sinks == nullptr, where, "has learned attention sinks; a cache has none");
    require(node.mask != nullptr, where, "has no attention mask; a cache is causal");
    require(node.keys->ne[0] == node.values->ne[0], where, "has keys of ", node.keys->ne[0],
            " channels and values of ", node.values->ne[0], "; they must be alike");
    require(node.queries->ne[0] == first.queries->ne[0] &&
                node.queries->ne[2] == first.queries->ne[2] &&
                node.keys->ne[2] == first.keys->ne[2],
            where, "has ", node.queries->ne[2], " query heads and ", node.keys->ne[2],
            " kv heads of ", node.queries->ne[0], "; layer 0 has ", first.queries->ne[2], " and ",
            first.keys->ne[2], " of ", first.queries->ne[0], ": they must be alike");
    require(node.scale == first.scale, where, "scales its scores by ", node.scale, "; layer 0 by ",
            first.scale, ": they must be alike");
    require(node.keys->ne[3] == 1, where, "keeps sequences apart in ", node.keys->ne[3],
            " streams; it must keep them in one");
    require(node.queries->type == GGML_TYPE_F32 && node.keys->type == GGML_TYPE_F16 &&
                node.values->type == GGML_TYPE_F16,
            where, "has queries, keys and values of type ", ggml_type_name(node.queries->type),
            ", ", ggml_type_name(node.keys->type), " and ", ggml_type_name(node.values->type),
            "; they must be f32, f16 and f16");
    for (const ggml_tensor* view : {node.keys, node.values}) {
      const ggml_tensor* cells = AttentionNode::cells(view);
      require(cells->buffer != nullptr && ggml_backend_buffer_is_host(cells->buffer), where,
              "keeps its keys and values in ",
              cells->buffer == nullptr ? "no buffer" : ggml_backend_buffer_name(cells->buffer),
              "; they must be in the memory of the processor (no GPU layers)");
      require(view->nb[2] == view->ne[0] * ggml_type_size(view->type), where,
              "does not keep the heads of a token side by side");
    }
    for (std::size_t other = 0; other < layer; ++other)
      require(AttentionNode::cells(nodes_[other].keys) != AttentionNode::cells(node.keys), where,
              "reads the keys and values of layer ", other, "; each layer must have its own");
  }

  /// Per layer, of a model with windows; else empty.
  std::vector<Index> windows(const llama_model* model) const {
    const Index window = llama_model_n_swa(model);
    if (window == 0) {
      for (const AttentionNode& node : nodes_)
        require(node.mask == nodes_.front().mask,
                "layers of the model have different attention masks, and its metadata has no "
                "sliding window");
      return {};
    }
    // Masks show which layers are alike, but not what they hide in a text longer than a batch.
    require(architecture(model) == "gemma3", "the model (", architecture(model),
            ") has sliding windows of ", window,
            " tokens; those of architecture gemma3 are the only ones that a cache knows");
    const std::string period_key = "attention.sliding_window_pattern";
    const std::string period_text = architecture_metadata(model, period_key);
    const Index period = period_text.empty() ? 6 : std::atoi(period_text.c_str());
    require(period >= 1, architecture(model), ".", period_key, " is ", period_text,
            "; it must be at least 1");
    std::vector<Index> windows;
    for (Index layer = 0; layer < static_cast<Index>(nodes_.size()); ++layer)
      windows.push_back(layer % period < period - 1 ? window : 0);
    for (std::size_t layer = 0; layer < nodes_.size(); ++layer)
      for (std::size_t other = 0; other < layer; ++other)
        require((nodes_[layer].mask == nodes_[other].mask) == (windows[layer] == windows[other]),
                "layers ", other, " and ", layer, " of the model have windows of ", windows[other],
                " and ", windows[layer], " by its metadata; its graph disagrees");
    return windows;
  }

  std::vector<AttentionNode> nodes_;
};

}  // namespace squat::llama_cpp
