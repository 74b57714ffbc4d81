#include "model.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <squat/error.hpp>

namespace squat_llama {
namespace {

using squat::require;

/// A file with a name of its own, for as long as this lives.
class TemporaryFile {
 public:
  TemporaryFile() : path_(std::filesystem::temp_directory_path() / "squat_llama_XXXXXX") {
    const int file = mkstemp(path_.data());
    require(file >= 0, "cannot make a temporary file ", path_);
    close(file);
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

llama_model* load(const char* path) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  return llama_model_load_from_file(path, params);
}

llama_model* load_in_single_precision(const std::string& path, int threads) {
  const TemporaryFile file;
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.nthread = threads;
  params.ftype = LLAMA_FTYPE_ALL_F32;
  params.allow_requantize = true;
  require(llama_model_quantize(path.c_str(), file.path(), &params) == 0, "llama.cpp cannot write ",
          path, " in single precision to ", file.path());
  return load(file.path());  // stays mapped
}

}  // namespace

Model::Model(const std::string& path, Weights weights, int threads) : threads_(threads) {
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  model_.reset(weights == Weights::single ? load_in_single_precision(path, threads)
                                          : load(path.c_str()));
  require(model_ != nullptr, "llama.cpp cannot load ", path);
}

int Model::vocabulary() const { return llama_vocab_n_tokens(llama_model_get_vocab(get())); }

std::vector<Token> Model::encode(const std::string& text) const {
  std::vector<Token> tokens(text.size() + 2);  // no token is shorter than a byte
  const std::int32_t count = llama_tokenize(
      llama_model_get_vocab(get()), text.data(), static_cast<std::int32_t>(text.size()),
      tokens.data(), static_cast<std::int32_t>(tokens.size()), /*add_special=*/true,
      /*parse_special=*/false);
  require(count >= 0, "llama.cpp's tokenizer fails on a text of ", text.size(), " bytes");
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

Token Model::leading_token() const {
  const llama_vocab* vocabulary = llama_model_get_vocab(get());
  return llama_vocab_get_add_bos(vocabulary) ? llama_vocab_bos(vocabulary) : -1;
}

}  // namespace squat_llama
