#include "attention_states.hpp"

#include <ggml.h>

#include <cstring>
#include <exception>
#include <squat/error.hpp>

namespace squat_llama {
namespace {

/// The first `tokens` rows of a tensor [channels, rows, heads].
squat::Matrix<float> rows_of(const ggml_tensor& tensor, std::int64_t tokens) {
  const bool is_half = tensor.type == GGML_TYPE_F16;
  squat::require(
      (is_half || tensor.type == GGML_TYPE_F32) && tensor.ne[1] >= tokens && tensor.ne[3] == 1,
      "attention takes ", ggml_type_name(tensor.type), " [", tensor.ne[0], ", ", tensor.ne[1], ", ",
      tensor.ne[2], ", ", tensor.ne[3], "]; it must be f32 or f16 of ", tokens,
      " tokens and one sequence");
  const std::int64_t channels = tensor.ne[0], heads = tensor.ne[2];
  squat::Matrix<float> rows(tokens, heads * channels);
  for (std::int64_t head = 0; head < heads; ++head)
    for (std::int64_t token = 0; token < tokens; ++token) {
      const char* row = static_cast<const char*>(tensor.data) +
                        static_cast<std::size_t>(token) * tensor.nb[1] +
                        static_cast<std::size_t>(head) * tensor.nb[2];
      float* out = rows.row(token).data() + head * channels;
      if (is_half)
        ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(row), out, channels);
      else
        std::memcpy(out, row, static_cast<std::size_t>(channels) * sizeof(float));
    }
  return rows;
}

struct Watch {
  const std::function<void(int, const LayerStates&)>& on_layer;
  std::int64_t tokens;
  int layer = 0;
  std::exception_ptr error = nullptr;

  /// What attention was computed from stays until its node is done.
  static bool on_node(ggml_tensor* node, bool ask, void* user_data) {
    Watch& watch = *static_cast<Watch*>(user_data);
    if (ask) return node->op == GGML_OP_FLASH_ATTN_EXT;
    try {  // must not unwind through llama.cpp
      watch.on_layer(watch.layer++,
                     {rows_of(*node->src[0], watch.tokens), rows_of(*node->src[1], watch.tokens),
                      rows_of(*node->src[2], watch.tokens)});
    } catch (...) {
      watch.error = std::current_exception();
    }
    return watch.error == nullptr;  // with false, the pass ends
  }
};

}  // namespace

void for_each_layer(const Model& model, const std::vector<Token>& tokens,
                    const std::function<void(int layer, const LayerStates&)>& on_layer) {
  squat::require(!tokens.empty(), "there are no tokens to read");
  for (const Token token : tokens)
    squat::require(token >= 0 && token < model.vocabulary(), "token ", token,
                   " is not in the vocabulary of ", model.vocabulary());
  Watch watch{on_layer, static_cast<std::int64_t>(tokens.size())};
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<std::uint32_t>(tokens.size());
  params.n_threads = params.n_threads_batch = model.threads();
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.swa_full = true;  // all tokens stay in their cells, in order
  params.cb_eval = &Watch::on_node;
  params.cb_eval_user_data = &watch;
  const llama_context_ptr context(llama_init_from_model(model.get(), params));
  squat::require(context != nullptr, "llama.cpp has no context of ", tokens.size(), " tokens");
  std::vector<Token> batch = tokens;
  const std::int32_t result = llama_decode(
      context.get(), llama_batch_get_one(batch.data(), static_cast<std::int32_t>(batch.size())));
  if (watch.error) std::rethrow_exception(watch.error);
  squat::require(result == 0, "llama_decode returns ", result, " for ", tokens.size(), " tokens");
}

}  // namespace squat_llama
