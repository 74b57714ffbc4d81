// Functions of libllama, found when the program runs. For sources that see llama.h.
#pragma once

#include <dlfcn.h>
#include <llama.h>

#include <string>

#include "require.hpp"

namespace squat_llama {

/// A function of libllama, declared in llama.h, by its name there. The library brings a ggml of its
/// own, whose names must not mix with ours, so nothing links against it. It stays loaded: other
/// threads' destructors may still be inside it.
template <class Pointer>
Pointer find_in_libllama(const char* name) {
  // RTLD_DEEPBIND: libllama finds its own ggml before the one that this program is linked with.
  static void* const library = dlopen(SQUAT_LLAMA_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (library == nullptr) fail(std::string("cannot load llama.cpp's library: ") + dlerror());
  void* symbol = dlsym(library, name);
  require(symbol != nullptr, SQUAT_LLAMA_LIBRARY, " has no ", name);
  return reinterpret_cast<Pointer>(symbol);
}

/// Loads a model; libllama says nothing about it on standard error.
inline llama_model* load_with_libllama(const std::string& path, bool vocabulary_only) {
  find_in_libllama<decltype(&llama_log_set)>("llama_log_set")(
      [](ggml_log_level, const char*, void*) {}, nullptr);
  llama_model_params params =
      find_in_libllama<decltype(&llama_model_default_params)>("llama_model_default_params")();
  params.vocab_only = vocabulary_only;
  llama_model* model = find_in_libllama<decltype(&llama_model_load_from_file)>(
      "llama_model_load_from_file")(path.c_str(), params);
  require(model != nullptr, "llama.cpp cannot read ", vocabulary_only ? "the vocabulary of " : "",
          path);
  return model;
}

}  // namespace squat_llama
