// libsquat_llama.so stands before libllama.so: programs of llama.cpp that nobody recompiles keep
// their keys and values in a SQuat cache. squat::LlamaContext does the work; here, in
// batch_ext.cpp and in state.cpp are the functions of llama.h that lead to it.
//
//   SQUAT_CACHE=2.5          bits per element, everything included (1.75 to 8)
//   SQUAT_CACHE=published:2  the published cache: 2, 3, 4 or 8 bits, and what scales take
//   SQUAT_LAYER_COSTS=FILE   divides the bits among the layers, as squat_llama layer-costs measured
//   SQUAT_MOMENTS=FILE       takes the metric of keys from squat_llama moments, not from the prompt
//   SQUAT_LOG=1              says what it does
//
// Without SQUAT_CACHE every call goes to llama.cpp as it is.
#include "next_function.hpp"
#include "registry.hpp"

namespace {

using squat::LlamaContext;
using squat_preload::find;
using squat_preload::guarded;
using squat_preload::guarded_batch;
using squat_preload::Registry;
using squat_preload::report;
using squat_preload::Settings;

squat::llama_cpp::Functions next_functions() {
  return {SQUAT_NEXT(llama_init_from_model),
          SQUAT_NEXT(llama_free),
          SQUAT_NEXT(llama_decode),
          SQUAT_NEXT(llama_memory_clear),
          SQUAT_NEXT(llama_memory_seq_rm),
          SQUAT_NEXT(llama_memory_seq_cp),
          SQUAT_NEXT(llama_state_seq_get_size_ext),
          SQUAT_NEXT(llama_state_seq_get_data_ext),
          SQUAT_NEXT(llama_state_seq_set_data_ext),
          SQUAT_NEXT(llama_set_abort_callback)};
}

void log_start(const LlamaContext& context, const llama_model* model, const Settings& settings) {
  const squat::ModelShape& shape = context.cache().shape();
  std::fprintf(stderr,
               "squat: SQUAT_CACHE=%s for %s: %ld layers, %ld query heads and %ld kv heads of %ld; "
               "%ld sequences of up to %u tokens, whose newest %ld are not packed\n",
               settings.text.c_str(), squat::llama_cpp::architecture(model).c_str(),
               static_cast<long>(shape.layers), static_cast<long>(shape.query_heads),
               static_cast<long>(shape.kv_heads), static_cast<long>(shape.head_dim),
               static_cast<long>(context.cache().sequences()), context.n_ctx_seq(),
               static_cast<long>(settings.config.residual_length));
}

void log_end(const LlamaContext& context) {
  std::fprintf(stderr, "squat: %ld tokens, %ld bytes in total, %ld bytes in f16\n",
               static_cast<long>(context.sequences().total()),
               static_cast<long>(context.cache().memory().total()),
               static_cast<long>(context.bytes_in_f16()));
}

/// A negative sequence stands for all.
template <class Use>
void for_sequences(const LlamaContext& context, llama_seq_id sequence, const Use& use) {
  if (sequence >= 0) return use(sequence);
  for (llama_seq_id s = 0; s < static_cast<llama_seq_id>(context.cache().sequences()); ++s) use(s);
}

/// After a void function of llama.h, which cannot say that it did not do what it was asked for.
void break_off(LlamaContext& context, llama_seq_id sequence, const std::string& why) {
  report(why);
  guarded(false, [&] {
    for_sequences(context, sequence,
                  [&](llama_seq_id s) { context.sequences().break_off(s, why); });
    return true;
  });
}

}  // namespace

extern "C" {

// Models and contexts.

llama_model* llama_model_load_from_file(const char* path, llama_model_params params) {
  llama_model* model = SQUAT_NEXT(llama_model_load_from_file)(path, params);
  if (model != nullptr && params.no_alloc) Registry::instance().note_without_weights(model);
  return model;
}

llama_model* llama_model_load_from_splits(const char** paths, size_t count,
                                          llama_model_params params) {
  llama_model* model = SQUAT_NEXT(llama_model_load_from_splits)(paths, count, params);
  if (model != nullptr && params.no_alloc) Registry::instance().note_without_weights(model);
  return model;
}

void llama_model_free(llama_model* model) {
  Registry::instance().forget(model);
  SQUAT_NEXT(llama_model_free)(model);
}

llama_context* llama_init_from_model(llama_model* model, llama_context_params params) {
  if (!Settings::is_active() || !Registry::instance().has_weights(model))
    return SQUAT_NEXT(llama_init_from_model)(model, params);
  return guarded(static_cast<llama_context*>(nullptr), [&] {
    const bool is_verbose = Settings::is_verbose();
    const Settings settings = Settings::from_environment();
    squat_preload::check_layout(SQUAT_NEXT(llama_context_default_params));
    auto context = std::make_unique<LlamaContext>(model, params, settings.config, next_functions());
    if (const auto moments = settings.moments(context->cache().shape()))
      context->calibrate(*moments);
    if (is_verbose) log_start(*context, model, settings);
    llama_context* handle = context->get();
    Registry::instance().add(std::move(context));
    return handle;
  });
}

llama_context* llama_new_context_with_model(llama_model* model, llama_context_params params) {
  return llama_init_from_model(model, params);
}

void llama_free(llama_context* context) {
  if (find(context) == nullptr) return SQUAT_NEXT(llama_free)(context);
  const std::unique_ptr<LlamaContext> own = Registry::instance().remove(context);
  if (Settings::is_verbose()) log_end(*own);
}

uint32_t llama_n_ctx(const llama_context* context) {
  const LlamaContext* own = find(context);
  return own != nullptr ? own->n_ctx() : SQUAT_NEXT(llama_n_ctx)(context);
}

uint32_t llama_n_ctx_seq(const llama_context* context) {
  const LlamaContext* own = find(context);
  return own != nullptr ? own->n_ctx_seq() : SQUAT_NEXT(llama_n_ctx_seq)(context);
}

void llama_set_embeddings(llama_context* context, bool embeddings) {
  SQUAT_NEXT(llama_set_embeddings)(context, embeddings);
  LlamaContext* own = find(context);
  if (own != nullptr) own->set_embeddings(embeddings);
}

void llama_set_causal_attn(llama_context* context, bool is_causal) {
  SQUAT_NEXT(llama_set_causal_attn)(context, is_causal);
  LlamaContext* own = find(context);
  if (own != nullptr) own->set_causal(is_causal);
}

void llama_set_abort_callback(llama_context* context, ggml_abort_callback callback, void* data) {
  LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_set_abort_callback)(context, callback, data);
  own->set_abort_callback(callback, data);
}

// Batches.

int32_t llama_decode(llama_context* context, llama_batch batch) {
  LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_decode)(context, batch);
  return guarded_batch(*own, [&] { return own->decode(batch); });
}

int32_t llama_encode(llama_context* context, llama_batch batch) {
  if (find(context) == nullptr) return SQUAT_NEXT(llama_encode)(context, batch);
  report("llama_encode: a context on a SQuat cache only decodes");
  return -1;
}

// Memory.

void llama_memory_clear(llama_memory_t memory, bool data) {
  LlamaContext* own = find(memory);
  if (own == nullptr) return SQUAT_NEXT(llama_memory_clear)(memory, data);
  own->clear();
}

bool llama_memory_seq_rm(llama_memory_t memory, llama_seq_id sequence, llama_pos begin,
                         llama_pos end) {
  LlamaContext* own = find(memory);
  if (own == nullptr) return SQUAT_NEXT(llama_memory_seq_rm)(memory, sequence, begin, end);
  return guarded(false, [&] {
    bool all = true;
    for_sequences(*own, sequence,
                  [&](llama_seq_id s) { all &= own->sequences().remove(s, begin, end); });
    return all;
  });
}

void llama_memory_seq_cp(llama_memory_t memory, llama_seq_id from, llama_seq_id to, llama_pos begin,
                         llama_pos end) {
  LlamaContext* own = find(memory);
  if (own == nullptr) return SQUAT_NEXT(llama_memory_seq_cp)(memory, from, to, begin, end);
  try {
    own->sequences().copy(from, to, begin, end);
  } catch (const std::exception& error) {
    break_off(*own, to, std::string("llama_memory_seq_cp: ") + error.what());
  }
}

void llama_memory_seq_keep(llama_memory_t memory, llama_seq_id sequence) {
  LlamaContext* own = find(memory);
  if (own == nullptr) return SQUAT_NEXT(llama_memory_seq_keep)(memory, sequence);
  guarded(false, [&] {
    for_sequences(*own, -1, [&](llama_seq_id s) {
      if (s != sequence) own->sequences().remove(s, -1, -1);
    });
    return true;
  });
}

void llama_memory_seq_add(llama_memory_t memory, llama_seq_id sequence, llama_pos begin,
                          llama_pos end, llama_pos delta) {
  LlamaContext* own = find(memory);
  if (own == nullptr) return SQUAT_NEXT(llama_memory_seq_add)(memory, sequence, begin, end, delta);
  try {
    if (delta != 0)
      for_sequences(*own, sequence,
                    [&](llama_seq_id s) { own->sequences().shift(s, begin, end, delta); });
  } catch (const std::exception& error) {
    break_off(*own, sequence, std::string("llama_memory_seq_add: ") + error.what());
  }
}

void llama_memory_seq_div(llama_memory_t memory, llama_seq_id sequence, llama_pos begin,
                          llama_pos end, int divisor) {
  LlamaContext* own = find(memory);
  if (own == nullptr)
    return SQUAT_NEXT(llama_memory_seq_div)(memory, sequence, begin, end, divisor);
  if (divisor != 1)
    break_off(*own, sequence, "llama_memory_seq_div: a SQuat cache cannot divide positions");
}

llama_pos llama_memory_seq_pos_min(llama_memory_t memory, llama_seq_id sequence) {
  const LlamaContext* own = find(memory);
  if (own == nullptr) return SQUAT_NEXT(llama_memory_seq_pos_min)(memory, sequence);
  return guarded(-1, [&] { return own->sequences().min_position(sequence); });
}

llama_pos llama_memory_seq_pos_max(llama_memory_t memory, llama_seq_id sequence) {
  const LlamaContext* own = find(memory);
  if (own == nullptr) return SQUAT_NEXT(llama_memory_seq_pos_max)(memory, sequence);
  return guarded(-1, [&] { return own->sequences().max_position(sequence); });
}

bool llama_memory_can_shift(llama_memory_t memory) {
  const LlamaContext* own = find(memory);
  return own == nullptr ? SQUAT_NEXT(llama_memory_can_shift)(memory) : own->sequences().can_shift();
}

}  // extern "C"
