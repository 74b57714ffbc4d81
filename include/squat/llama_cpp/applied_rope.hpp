// How the keys of a layer turn with their position, read off a graph of ggml.
#pragma once

#include <algorithm>
#include <squat/llama_cpp/attention_node.hpp>
#include <squat/model_shape.hpp>
#include <vector>

namespace squat::llama_cpp {

/// Finds the rotary embedding that keys went through on their way into a layer's cells.
class AppliedRope {
 public:
  /// All nodes of a graph, which outlive it.
  explicit AppliedRope(const std::vector<const ggml_tensor*>& nodes) : nodes_(nodes) {}

  /// Of heads of `head_dim`; unknown (Rope::is_known) where the graph does not show it.
  Rope of(const ggml_tensor* key_cells, Index head_dim) const {
    for (const ggml_tensor* node : nodes_)
      if ((node->op == GGML_OP_SET_ROWS || node->op == GGML_OP_CPY) &&
          AttentionNode::cells(node) == key_cells)
        return of_keys(node->src[0], head_dim);
    return {};
  }

 private:
  /// Of what `keys` [width, ...] were made from.
  static Rope of_keys(const ggml_tensor* keys, Index width) {
    for (; keys != nullptr; keys = keys->src[0]) {
      if (keys->op == GGML_OP_ROPE) return keys->ne[0] == width ? of_node(*keys) : Rope();
      if (keys->op == GGML_OP_CONCAT) return of_parts(*keys);
      if (keys->op == GGML_OP_NONE) return {};
      const bool is_product = keys->op == GGML_OP_MUL_MAT || keys->op == GGML_OP_MUL_MAT_ID;
      if (!is_product) continue;
      // Positions enter behind the last weights, unless these turn keys for their own purpose.
      Rope rope;
      rope.is_applied = !is_turned(keys->src[1]);
      return rope;
    }
    return {};
  }

  /// Of channels side by side, of which one part may turn.
  static Rope of_parts(const ggml_tensor& parts) {
    const ggml_tensor *front = parts.src[0], *back = parts.src[1];
    Rope first = of_keys(front, front->ne[0]), second = of_keys(back, back->ne[0]);
    if (parts.op_params[0] != 0 || !first.is_known() || !second.is_known()) return {};
    if (second.pairing == RopePairing::none) return with_dims(first, front->ne[0]);
    if (first.pairing != RopePairing::none) return {};
    second = with_dims(second, back->ne[0]);
    second.first += front->ne[0];
    return second;
  }

  static Rope with_dims(Rope rope, Index width) {
    if (rope.dims == 0) rope.dims = width - rope.first;
    return rope;
  }

  /// Whether `rows` are turned, seen through what only changes their place.
  static bool is_turned(const ggml_tensor* rows) {
    for (; rows != nullptr; rows = rows->src[0]) switch (rows->op) {
        case GGML_OP_ROPE:
          return true;
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
        case GGML_OP_CONT:
        case GGML_OP_CPY:
          break;
        default:
          return false;
      }
    return false;
  }

  /// As ggml_rope_ext computes it (YaRN: Peng et al. 2023). What it multiplies keys with does not
  /// depend on positions.
  static Rope of_node(const ggml_tensor& node) {
    const auto integer = [&](int i) { return node.op_params[i]; };
    const auto real = [&](int i) {
      float number;
      std::memcpy(&number, &node.op_params[i], sizeof number);
      return number;
    };
    const int dims = integer(1), mode = integer(2);
    const ggml_tensor* const frequency_factors = node.src[2];
    Rope rope;
    if ((mode != GGML_ROPE_TYPE_NEOX && mode != GGML_ROPE_TYPE_NORMAL) ||
        (frequency_factors != nullptr && (frequency_factors->type != GGML_TYPE_F32 ||
                                          !ggml_backend_buffer_is_host(frequency_factors->buffer))))
      return rope;  // positions of several dimensions
    rope.pairing = mode == GGML_ROPE_TYPE_NEOX ? RopePairing::halves : RopePairing::interleaved;
    rope.is_applied = true;
    rope.dims = dims;
    rope.first = integer(15);
    rope.base = static_cast<double>(real(5));
    float correction[2];
    ggml_rope_yarn_corr_dims(dims, integer(4), real(5), real(9), real(10), correction);
    const double scale = static_cast<double>(real(6)), extrapolation = static_cast<double>(real(7));
    const double low = static_cast<double>(correction[0]),
                 high = static_cast<double>(correction[1]);
    for (int pair = 0; pair < dims / 2; ++pair) {
      const double ramp = std::clamp((pair - low) / std::max(0.001, high - low), 0.0, 1.0);
      const double mix = extrapolation * (1 - ramp);
      const double factor =
          frequency_factors == nullptr
              ? 1
              : static_cast<double>(static_cast<const float*>(frequency_factors->data)[pair]);
      rope.factors.push_back(factor / (scale * (1 - mix) + mix));
    }
    const auto is_one = [](double factor) { return factor == 1; };
    if (std::all_of(rope.factors.begin(), rope.factors.end(), is_one)) rope.factors.clear();
    return rope;
  }

  const std::vector<const ggml_tensor*>& nodes_;
};

}  // namespace squat::llama_cpp
