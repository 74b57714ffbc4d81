#include "tokenizer.hpp"

#include <dlfcn.h>
#include <llama.h>

#include <squat/error.hpp>

namespace squat_llama {
namespace {

void* open_library() {
  // RTLD_DEEPBIND: libllama finds its own ggml before the one that this program is linked with.
  void* handle = dlopen(SQUAT_LLAMA_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (handle == nullptr) squat::fail(std::string("cannot load llama.cpp's library: ") + dlerror());
  return handle;
}

/// A function of libllama, declared in llama.h, found when the program runs.
template <class Pointer>
Pointer find(void* library, const char* name) {
  void* symbol = dlsym(library, name);
  squat::require(symbol != nullptr, SQUAT_LLAMA_LIBRARY, " has no ", name);
  return reinterpret_cast<Pointer>(symbol);
}

void ignore_log(ggml_log_level, const char*, void*) {}

/// Calls `write(buffer, capacity)`, which returns the size it needs (as a negative number where the
/// capacity is too small, or as it is), until all of it fits.
template <class Buffer, class Write>
Buffer write_all(size_t expected, Write write) {
  Buffer buffer(expected, {});
  int32_t size = write(buffer.data(), static_cast<int32_t>(buffer.size()));
  if (static_cast<size_t>(std::abs(size)) > buffer.size()) {
    buffer.resize(static_cast<size_t>(std::abs(size)));
    size = write(buffer.data(), static_cast<int32_t>(buffer.size()));
  }
  squat::require(size >= 0, "llama.cpp's tokenizer failed with ", size);
  buffer.resize(static_cast<size_t>(size));
  return buffer;
}

}  // namespace

struct Tokenizer::Library {
  explicit Library(const std::string& model_path) {
    find<decltype(&llama_log_set)>(handle, "llama_log_set")(ignore_log, nullptr);
    llama_model_params params =
        find<decltype(&llama_model_default_params)>(handle, "llama_model_default_params")();
    params.vocab_only = true;
    model = find<decltype(&llama_model_load_from_file)>(handle, "llama_model_load_from_file")(
        model_path.c_str(), params);
    squat::require(model != nullptr, "llama.cpp cannot read the vocabulary of ", model_path);
  }
  ~Library() { find<decltype(&llama_free_model)>(handle, "llama_free_model")(model); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  void* handle = open_library();  // stays: other threads' destructors may still be inside it
  llama_model* model = nullptr;
  decltype(&llama_tokenize) tokenize = find<decltype(tokenize)>(handle, "llama_tokenize");
  decltype(&llama_token_to_piece) piece = find<decltype(piece)>(handle, "llama_token_to_piece");
  decltype(&llama_token_is_eog) is_end = find<decltype(is_end)>(handle, "llama_token_is_eog");
  decltype(&llama_token_bos) bos = find<decltype(bos)>(handle, "llama_token_bos");
  decltype(&llama_add_bos_token) adds_bos = find<decltype(adds_bos)>(handle, "llama_add_bos_token");
  decltype(&llama_chat_apply_template) chat =
      find<decltype(chat)>(handle, "llama_chat_apply_template");
  decltype(&llama_model_meta_val_str) metadata =
      find<decltype(metadata)>(handle, "llama_model_meta_val_str");
};

Tokenizer::Tokenizer(const std::string& model_path)
    : library_(std::make_unique<Library>(model_path)) {}
Tokenizer::~Tokenizer() = default;

std::vector<int> Tokenizer::encode(const std::string& text, bool parse_special) const {
  return write_all<std::vector<int>>(text.size() + 2, [&](int* tokens, int32_t capacity) {
    return library_->tokenize(library_->model, text.data(), static_cast<int32_t>(text.size()),
                              tokens, capacity, /*add_special=*/true, parse_special);
  });
}

std::string Tokenizer::decode(int token) const {
  return write_all<std::string>(64, [&](char* bytes, int32_t capacity) {
    return library_->piece(library_->model, token, bytes, capacity, /*lstrip=*/0,
                           /*special=*/false);
  });
}

std::string Tokenizer::chat(const std::string& message) const {
  const llama_chat_message user{"user", message.c_str()};
  const std::string chat_template = write_all<std::string>(1 << 14, [&](char* text, int32_t size) {
    return library_->metadata(library_->model, "tokenizer.chat_template", text,
                              static_cast<size_t>(size));
  });
  return write_all<std::string>(2 * message.size() + 1024, [&](char* text, int32_t size) {
    return library_->chat(chat_template.c_str(), &user, 1, /*add_ass=*/true, text, size);
  });
}

bool Tokenizer::ends_generation(int token) const {
  return library_->is_end(library_->model, token);
}

int Tokenizer::leading_token() const {
  return library_->adds_bos(library_->model) == 1 ? library_->bos(library_->model) : -1;
}

}  // namespace squat_llama
