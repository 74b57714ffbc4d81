// Attention as it stands in a graph of ggml, and how it becomes an operator of ours.
#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <array>
#include <cstring>
#include <memory>
#include <squat/error.hpp>

namespace squat::llama_cpp {

/// What ggml_flash_attn_ext puts into a node: softmax(scale * q k + mask) v, with a soft cap of the
/// scores, ALiBi (max_bias) and a learned sink per head where they are not 0.
struct AttentionNode {
  const ggml_tensor* queries;  ///< [head_dim, rows, query heads], float
  const ggml_tensor* keys;     ///< [head_dim, cells, kv heads], a view of all cells of the layer
  const ggml_tensor* values;   ///< [value_dim, cells, kv heads]
  const ggml_tensor* mask;     ///< [cells, rows], half: 0 (with ALiBi minus the distance)
                               ///< or minus infinity; may be null
  const ggml_tensor* sinks;    ///< [query heads]; null unless the model learned some
  float scale;
  float max_bias;
  float soft_cap;

  /// Of a node that is still ggml's own.
  explicit AttentionNode(const ggml_tensor& node)
      : queries(node.src[0]),
        keys(node.src[1]),
        values(node.src[2]),
        mask(node.src[3]),
        sinks(node.src[4]) {
    std::array<float, 3> parameters;
    std::memcpy(parameters.data(), node.op_params, sizeof parameters);
    scale = parameters[0];
    max_bias = parameters[1];
    soft_cap = parameters[2];
  }

  /// The tensor that holds all cells of which `view` shows some: it stays the same for the life of
  /// a context, and so tells layers apart.
  static const ggml_tensor* cells(const ggml_tensor* view) {
    return view->view_src != nullptr ? view->view_src : view;
  }
};

/// Turns attention nodes into nodes of GGML_OP_CUSTOM that call `function` with `user_data`.
///
/// The graph stays in one piece, and ggml's threads run the operator. The node keeps its sources
/// and its shape; what ggml_custom_4d writes beside them is copied from an operator that it made.
class CustomOperator {
 public:
  CustomOperator(ggml_custom_op_t function, void* user_data) {
    const ggml_init_params memory{4 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true};
    const std::unique_ptr<ggml_context, void (*)(ggml_context*)> context(ggml_init(memory),
                                                                         ggml_free);
    require(context != nullptr, "ggml_init failed");
    ggml_tensor* argument = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 1);
    const ggml_tensor* made = ggml_custom_4d(context.get(), GGML_TYPE_F32, 1, 1, 1, 1, &argument, 1,
                                             function, GGML_N_TASKS_MAX, user_data);
    std::memcpy(parameters_.data(), made->op_params, sizeof made->op_params);
  }

  void replace(ggml_tensor& node) const {
    node.op = GGML_OP_CUSTOM;
    std::memcpy(node.op_params, parameters_.data(), sizeof node.op_params);
  }

 private:
  std::array<char, sizeof ggml_tensor::op_params> parameters_;
};

}  // namespace squat::llama_cpp
