#include "libllama.hpp"

#include <dlfcn.h>
#include <llama.h>

#include <stdexcept>

namespace squat_llama::test {
namespace {

/// A function of libllama, which brings a ggml of its own (see tokenizer.cpp).
template <class Pointer>
Pointer find(const char* name) {
  static void* const library = dlopen(SQUAT_LLAMA_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (library == nullptr) throw std::runtime_error(dlerror());
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) throw std::runtime_error(std::string("libllama has no ") + name);
  return reinterpret_cast<Pointer>(symbol);
}

#define LLAMA(name) find<decltype(&llama_##name)>("llama_" #name)

}  // namespace

std::vector<float> libllama_logits(const std::string& model_path, std::vector<int> tokens) {
  LLAMA(log_set)([](ggml_log_level, const char*, void*) {}, nullptr);
  const auto count = static_cast<int32_t>(tokens.size());
  llama_model* model =
      LLAMA(model_load_from_file)(model_path.c_str(), LLAMA(model_default_params)());
  if (model == nullptr) throw std::runtime_error("libllama cannot load " + model_path);
  llama_context_params params = LLAMA(context_default_params)();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(count);
  params.n_threads = params.n_threads_batch = 1;
  params.type_k = params.type_v = GGML_TYPE_F16;
  params.flash_attn = false;
  params.logits_all = true;
  llama_context* context = LLAMA(init_from_model)(model, params);
  if (context == nullptr) throw std::runtime_error("libllama cannot make a context");

  llama_batch batch = LLAMA(batch_init)(count, 0, 1);
  for (int32_t i = 0; i < count; ++i) {
    batch.token[i] = tokens[static_cast<std::size_t>(i)];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  batch.n_tokens = count;
  const int32_t failure = LLAMA(decode)(context, batch);
  const float* logits = LLAMA(get_logits)(context);
  std::vector<float> result(logits,
                            logits + static_cast<std::ptrdiff_t>(count) * LLAMA(n_vocab)(model));
  LLAMA(batch_free)(batch);
  LLAMA(free)(context);
  LLAMA(free_model)(model);
  if (failure != 0) throw std::runtime_error("libllama cannot decode");
  return result;
}

}  // namespace squat_llama::test
