#include "cell_session.hpp"

#include <ggml.h>

#include <cstring>
#include <squat/error.hpp>

#include "squat_session.hpp"

namespace squat_llama {
namespace {

TurboCodec codec_for(const squat::ModelShape& shape, int bits) {
  for (squat::Index layer = 0; layer < shape.layers; ++layer) {
    const squat::LayerShape& one = shape.layer(layer);
    squat::require(one.head_dim == shape.head_dim && one.own_value_width() == shape.head_dim,
                   "turbo takes heads of one width; layer ", layer, " of the model has keys of ",
                   one.head_dim, " and values of ", one.own_value_width(), " channels, layer 0 ",
                   shape.head_dim);
  }
  return {static_cast<int>(shape.head_dim), bits};
}

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
    : CellSession(model, attention_shape(model), type, std::nullopt, options) {}

CellSession::CellSession(const Model& model, int turbo_bits, const SessionOptions& options)
    : CellSession(model, attention_shape(model), GGML_TYPE_F32, turbo_bits, options) {}

CellSession::CellSession(const Model& model, const squat::ModelShape& shape, ggml_type type,
                         std::optional<int> turbo_bits, const SessionOptions& options)
    : Session(model, options), width_(width_of(shape)) {
  if (turbo_bits) codec_ = codec_for(shape, *turbo_bits);
  llama_context_params params = context_params(model, options);
  params.type_k = params.type_v = type;
  // As one operator, attention rounds keys and values in single precision to half.
  if (type == GGML_TYPE_F32 && !codec_) params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.cb_eval = &CellSession::on_node;
  params.cb_eval_user_data = this;
  context_.reset(llama_init_from_model(model.get(), params));
  squat::require(context_ != nullptr, "llama.cpp has no cache of ", ggml_type_name(type),
                 " for this model");
}

bool CellSession::on_node(ggml_tensor* node, bool ask, void* self) {
  CellSession& session = *static_cast<CellSession*>(self);
  if (!ask) {
    session.round(*node);
    return true;
  }
  if (!is_written_to_cells(*node)) return false;
  session.cells_.insert(node->view_src);
  return session.codec_.has_value();
}

void CellSession::round(ggml_tensor& node) const {
  const Eigen::Index dim = codec_->rotation().rows();
  std::vector<std::uint8_t> code(static_cast<std::size_t>(codec_->row_bytes()));
  const ggml_tensor& written = *node.src[1];
  for (std::int64_t i = 0; i < ggml_nelements(&written); ++i) {
    const std::int64_t cell = static_cast<const std::int64_t*>(written.data)[i];
    float* row = reinterpret_cast<float*>(static_cast<char*>(node.data) +
                                          static_cast<std::size_t>(cell) * node.nb[1]);
    for (std::int64_t channel = 0; channel < node.ne[0]; channel += dim) {
      Eigen::Map<Eigen::RowVectorXf> head(row + channel, dim);
      Eigen::RowVectorXf rotated = head * codec_->rotation();
      codec_->encode(rotated.data(), code.data());
      codec_->decode(code.data(), rotated.data());
      head.noalias() = rotated * codec_->rotation().transpose();
    }
  }
}

CacheBytes CellSession::bytes() const {
  CacheBytes bytes;
  double allocated = 0, numbers = 0;
  for (const ggml_tensor* cells : cells_) {
    allocated += static_cast<double>(ggml_nbytes(cells));
    numbers += static_cast<double>(ggml_nelements(cells));
  }
  bytes.elements = tokens() * width_;
  if (codec_) {
    const double of_element = codec_->row_bytes() / static_cast<double>(codec_->rotation().rows());
    bytes.quantized = bytes.elements * of_element;
    bytes.total = numbers * of_element + codec_->table_bytes();
  } else {
    bytes.quantized = numbers > 0 ? bytes.elements * allocated / numbers : 0;
    bytes.total = allocated;
  }
  return bytes;
}

}  // namespace squat_llama
