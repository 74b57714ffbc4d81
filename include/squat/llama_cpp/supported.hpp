// Which models and parameters a context on a SQuat cache takes.
#pragma once

#include <llama.h>

#include <squat/llama_cpp/model_attention.hpp>
#include <squat/llama_cpp/token_places.hpp>

namespace squat::llama_cpp {

/// Fails, saying why, on a model or parameters that no cache can serve. ModelAttention looks at
/// what only the graph shows.
inline void check_supported(const llama_model* model, const llama_context_params& params) {
  require(model != nullptr, "model is null");
  for (const ggml_type type : {params.type_k, params.type_v})
    require(!ggml_is_quantized(type), "params.type_k or type_v is ", ggml_type_name(type),
            "; it must be f16: the cache quantizes by itself");
  require(params.attention_type != LLAMA_ATTENTION_TYPE_NON_CAUSAL,
          "params.attention_type is not causal; a cache is causal");
  require(params.ctx_type == LLAMA_CONTEXT_TYPE_DEFAULT, "params.ctx_type is ",
          static_cast<int>(params.ctx_type),
          "; it must be the default one: layers for multi-token prediction go on from states of "
          "the model's other layers");
  const std::string name = architecture(model);
  // Other drafts are given ctx_other, too, and llama.cpp takes no notice.
  require(name != "gemma4-assistant", "the model (", name,
          ") drafts from the keys and values of params.ctx_other, which a cache does not share");
  require(!llama_model_has_encoder(model), "the model (", name, ") has an encoder");
  require(architecture_metadata(model, "attention.causal") != "false", "the model (", name,
          ") is not causal; a cache is");
  require(!llama_model_is_recurrent(model), "the model (", name,
          ") has no attention: its state does not grow, and there are no keys and values to keep");
  const llama_rope_type rope = llama_model_rope_type(model);
  require(rope == LLAMA_ROPE_TYPE_NONE || rope == LLAMA_ROPE_TYPE_NORM ||
              rope == LLAMA_ROPE_TYPE_NEOX || has_planes(model),
          "the model (", name, ") has a rotary embedding of an unknown type, ",
          static_cast<int>(rope));
}

}  // namespace squat::llama_cpp
