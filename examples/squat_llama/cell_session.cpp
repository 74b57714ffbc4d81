#include "cell_session.hpp"

#include <ggml.h>

#include <cstring>
#include <squat/error.hpp>

#include "squat_session.hpp"

namespace squat_llama {
namespace {

double width_of(const squat::ModelShape& shape) {
  squat::Index width = 0;
  for (squat::Index layer = 0; layer < shape.layers; ++layer) {
    const squat::LayerShape& one = shape.layer(layer);
    if (one.kv_layer < 0) width += one.kv_heads * (one.head_dim + one.own_value_width());
  }
  return static_cast<double>(width);
}

/// Whether the node writes keys or values of a batch to their cells, which llama.cpp names.
bool is_written_to_cells(const ggml_tensor& node) {
  return node.op == GGML_OP_SET_ROWS && node.view_src != nullptr &&
         (std::strncmp(node.view_src->name, "cache_k_l", 9) == 0 ||
          std::strncmp(node.view_src->name, "cache_v_l", 9) == 0);
}

}  // namespace

CellSession::CellSession(const Model& model, ggml_type type, const SessionOptions& options)
    : CellSession(model, type, nullptr, options) {}

CellSession::CellSession(const Model& model, std::unique_ptr<CellRounding> rounding,
                         const SessionOptions& options)
    : CellSession(model, GGML_TYPE_F32, std::move(rounding), options) {}

CellSession::CellSession(const Model& model, ggml_type type, std::unique_ptr<CellRounding> rounding,
                         const SessionOptions& options)
    : Session(model, options),
      rounding_(std::move(rounding)),
      width_(width_of(attention_shape(model))) {
  llama_context_params params = context_params(model, options);
  params.type_k = params.type_v = type;
  // As one operator, attention rounds keys and values in single precision to half.
  if (type == GGML_TYPE_F32 && !rounding_) params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.cb_eval = &CellSession::on_node;
  params.cb_eval_user_data = this;
  context_.reset(llama_init_from_model(model.get(), params));
  squat::require(context_ != nullptr, "llama.cpp has no cache of ", ggml_type_name(type),
                 " for this model");
}

bool CellSession::on_node(ggml_tensor* node, bool ask, void* self) {
  CellSession& session = *static_cast<CellSession*>(self);
  if (!ask) {
    session.rounding_->round(*node);
    return true;
  }
  if (!is_written_to_cells(*node)) return false;
  session.cells_.insert(node->view_src);
  return session.rounding_ != nullptr;
}

CacheBytes CellSession::bytes() const {
  double allocated = 0, numbers = 0;
  for (const ggml_tensor* cells : cells_) {
    allocated += static_cast<double>(ggml_nbytes(cells));
    numbers += static_cast<double>(ggml_nelements(cells));
  }
  if (rounding_) return rounding_->bytes(tokens() * width_, numbers);
  CacheBytes bytes;
  bytes.elements = tokens() * width_;
  bytes.quantized = numbers > 0 ? bytes.elements * allocated / numbers : 0;
  bytes.total = allocated;
  return bytes;
}

}  // namespace squat_llama
