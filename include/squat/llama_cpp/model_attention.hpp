// The attention of a model, as its graph shows it: the shape of a cache, or why there can be none.
#pragma once

#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <squat/config.hpp>
#include <squat/llama_cpp/applied_rope.hpp>
#include <squat/llama_cpp/token_places.hpp>
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
  const ggml_tensor* key_cells;  ///< [kv heads * head_dim, cells]
  const ggml_tensor*
      value_cells;      ///< [kv heads * value_dim, cells]; of latent attention: key_cells
  Index kv_layer;       ///< the layer that writes them: an earlier one, or this
  bool is_last_reader;  ///< no later layer reads them
};

/// What graphs say of the attention of a model. Gathers their nodes, then checks.
class ModelAttention {
 public:
  void add(const ggml_tensor& node) { nodes_.emplace_back(node); }
  /// A node of the graph of a token whose position is the width of the model's window or chunk. The
  /// memory holds the positions 0, the one before, and its own.
  void add_sight(const ggml_tensor& node) { visible_.push_back(visible(AttentionNode(node).mask)); }
  /// All nodes of the graph of which add() saw some, once they are what they were.
  void look(const std::vector<const ggml_tensor*>& graph) {
    const AppliedRope ropes(graph);
    for (const AttentionNode& node : nodes_)
      ropes_.push_back(ropes.of(AttentionNode::cells(node.keys), node.keys->ne[0]));
  }

  std::vector<AttentionLayer> layers() const {
    std::vector<AttentionLayer> layers;
    for (const AttentionNode& node : nodes_) {
      const ggml_tensor* const cells = AttentionNode::cells(node.keys);
      Index writer = 0;
      while (writer < static_cast<Index>(layers.size()) &&
             layers[static_cast<std::size_t>(writer)].key_cells != cells)
        ++writer;
      for (AttentionLayer& layer : layers) layer.is_last_reader &= layer.key_cells != cells;
      layers.push_back({cells, AttentionNode::cells(node.values), writer, true});
    }
    return layers;
  }

  /// The shape of the model's cache. Fails on attention that a cache cannot compute, naming it.
  /// Layers that have a recurrent state instead are none of its layers.
  ModelShape shape(const llama_model* model) const {
    const Index layers = static_cast<Index>(nodes_.size());
    const bool is_hybrid = llama_model_is_hybrid(model);
    require(is_hybrid ? layers > 0 : layers == llama_model_n_layer(model), "the model's graph has ",
            layers, " attention operators that keep keys and values; its ",
            llama_model_n_layer(model), " layers should have ", is_hybrid ? "some" : "one each");
    const std::vector<AttentionLayer> all = this->layers();
    std::vector<LayerShape> by_layer;
    for (std::size_t layer = 0; layer < nodes_.size(); ++layer) {
      check(nodes_[layer], layer);
      LayerShape& one = by_layer.emplace_back(shape_of(nodes_[layer]));
      one.rope = ropes_[layer];
      if (all[layer].kv_layer != static_cast<Index>(layer)) one.kv_layer = all[layer].kv_layer;
      limit_sight(one, layer, llama_model_n_swa(model));
      require(!is_hybrid || (one.window == 0 && one.chunk == 0), "layer ", layer,
              " of the model has a window, and others have a recurrent state: not served together");
      require(!has_planes(model) || (one.window == 0 && one.chunk == 0 && one.alibi_slopes.empty()),
              "layer ", layer,
              " of the model goes by distances between tokens (window, chunk or ALiBi), which have "
              "several positions each (M-RoPE): not served together");
    }
    const LayerShape& first = by_layer.front();
    ModelShape shape{layers, first.query_heads, first.kv_heads, first.head_dim};
    static_cast<LayerShape&>(shape) = first;
    const auto is_first = [&](const LayerShape& one) { return one == first; };
    if (!std::all_of(by_layer.begin(), by_layer.end(), is_first))
      shape.by_layer = std::move(by_layer);
    squat::detail::check(shape);
    return shape;
  }

 private:
  static LayerShape shape_of(const AttentionNode& node) {
    LayerShape shape;
    shape.query_heads = node.queries->ne[2];
    shape.kv_heads = node.keys->ne[2];
    shape.head_dim = node.keys->ne[0];
    shape.value_dim = node.values->ne[0];
    shape.values_in_keys = AttentionNode::cells(node.keys) == AttentionNode::cells(node.values) &&
                           node.keys->view_offs == node.values->view_offs;
    shape.softmax_scale = static_cast<double>(node.scale);
    shape.softcap = static_cast<double>(node.soft_cap);
    if (node.max_bias > 0)
      shape.alibi_slopes = alibi_slopes(shape.query_heads, static_cast<double>(node.max_bias));
    for (Index head = 0; node.sinks != nullptr && head < shape.query_heads; ++head)
      shape.sink_logits.push_back(
          static_cast<double>(static_cast<const float*>(node.sinks->data)[head]));
    return shape;
  }

  /// Of each query head, as ggml_flash_attn_ext takes them from max_bias (Press et al. 2022).
  static std::vector<double> alibi_slopes(Index heads, double max_bias) {
    const double power = std::exp2(std::floor(std::log2(static_cast<double>(heads))));
    std::vector<double> slopes;
    for (Index i = 0; i < heads; ++i) {
      const double head = static_cast<double>(i);
      slopes.push_back(head < power
                           ? std::exp2(-max_bias / power * (head + 1))
                           : std::exp2(-max_bias / (2 * power) * (2 * (head - power) + 1)));
    }
    return slopes;
  }

  void check(const AttentionNode& node, std::size_t layer) const {
    const std::string where = "layer " + std::to_string(layer) + " of the model ";
    require(node.mask != nullptr, where, "has no attention mask; a cache is causal");
    require(
        node.sinks == nullptr || (node.sinks->type == GGML_TYPE_F32 && is_in_memory(node.sinks)),
        where, "has learned attention sinks that are not f32 in the memory of the processor");
    require(node.keys->ne[3] == 1, where, "keeps sequences apart in ", node.keys->ne[3],
            " streams; it must keep them in one");
    require(node.queries->type == GGML_TYPE_F32 && node.keys->type == GGML_TYPE_F16 &&
                node.values->type == GGML_TYPE_F16,
            where, "has queries, keys and values of type ", ggml_type_name(node.queries->type),
            ", ", ggml_type_name(node.keys->type), " and ", ggml_type_name(node.values->type),
            "; they must be f32, f16 and f16");
    for (const ggml_tensor* view : {node.keys, node.values}) {
      const ggml_tensor* cells = AttentionNode::cells(view);
      require(is_in_memory(cells), where, "keeps its keys and values in ",
              cells->buffer == nullptr ? "no buffer" : ggml_backend_buffer_name(cells->buffer),
              "; they must be in the memory of the processor (no GPU layers)");
      require(view->ne[2] == 1 || view->nb[2] == view->ne[0] * ggml_type_size(view->type), where,
              "does not keep the heads of a token side by side");
    }
  }

  static bool is_in_memory(const ggml_tensor* tensor) {
    return tensor->buffer != nullptr && ggml_backend_buffer_is_host(tensor->buffer);
  }

  /// The window or chunk of a layer, whose width the model tells, as its mask shows it.
  void limit_sight(LayerShape& shape, std::size_t layer, Index width) const {
    if (visible_.empty()) {
      require(nodes_[layer].mask == nodes_.front().mask, "layers 0 and ", layer,
              " of the model have different attention masks, and it has no sliding window");
      return;
    }
    require(visible_.size() == nodes_.size() && visible_[layer] >= 1 && visible_[layer] <= 3,
            "layer ", layer, " of the model shows ", visible_[layer],
            " of 3 tokens; with windows of ", width, " tokens it can be 1 to 3");
    if (visible_[layer] == 2) shape.window = width;  // its own and the one before
    if (visible_[layer] == 1) shape.chunk = width;   // the first of a chunk
  }

  /// How many tokens the first row of a mask shows; 0 where that cannot be read. Nothing has been
  /// computed: what the mask is made from is asked. Throws nothing, since llama.cpp calls it.
  static Index visible(const ggml_tensor* mask) noexcept {
    if (mask == nullptr) return 0;
    while (mask->src[0] != nullptr || mask->view_src != nullptr)
      mask = mask->src[0] != nullptr ? mask->src[0] : mask->view_src;
    if (!is_in_memory(mask) || (mask->type != GGML_TYPE_F32 && mask->type != GGML_TYPE_F16))
      return 0;
    Index count = 0;
    for (Index cell = 0; cell < mask->ne[0]; ++cell)
      count += mask->type == GGML_TYPE_F32
                   ? detail::is_finite(static_cast<const float*>(mask->data)[cell])
                   : static_cast<const std::uint16_t*>(mask->data)[cell] != 0xfc00;
    return count;
  }

  std::vector<AttentionNode> nodes_;
  std::vector<Rope> ropes_;     // of each
  std::vector<Index> visible_;  // tokens that each shows, of 3; empty without windows
};

}  // namespace squat::llama_cpp
