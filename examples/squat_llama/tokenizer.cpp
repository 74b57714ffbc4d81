#include "tokenizer.hpp"

#include "libllama.hpp"
#include "require.hpp"

namespace squat_llama {
namespace {

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
  require(size >= 0, "llama.cpp's tokenizer failed with ", size);
  buffer.resize(static_cast<size_t>(size));
  return buffer;
}

}  // namespace

struct Tokenizer::Library {
  explicit Library(const std::string& model_path)
      : model(load_with_libllama(model_path, /*vocabulary_only=*/true)) {}
  ~Library() { free(model); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

#define FUNCTION(member, name) decltype(&name) member = find_in_libllama<decltype(&name)>(#name)
  FUNCTION(free, llama_free_model);
  FUNCTION(tokenize, llama_tokenize);
  FUNCTION(piece, llama_token_to_piece);
  FUNCTION(is_end, llama_token_is_eog);
  FUNCTION(bos, llama_token_bos);
  FUNCTION(adds_bos, llama_add_bos_token);
  FUNCTION(chat, llama_chat_apply_template);
  FUNCTION(metadata, llama_model_meta_val_str);
#undef FUNCTION
  llama_model* model;
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
