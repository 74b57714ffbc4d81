#include "gguf_file.hpp"

#include <cstring>
#include <fstream>
#include <utility>

#include "require.hpp"

namespace squat_llama {

GgufFile::GgufFile(const std::string& path, Weights weights) : path_(path) {
  require(std::ifstream(path).good(), "cannot open the model file ", path);
  ggml_context* tensors = nullptr;
  metadata_.reset(gguf_init_from_file(path.c_str(), {/*no_alloc=*/false, /*ctx=*/&tensors}));
  tensors_.reset(tensors);
  require(metadata_ != nullptr && tensors_ != nullptr, path, " is not a GGUF file");
  if (weights == Weights::single) dequantize();
}

/// Replaces every tensor by its single-precision form.
void GgufFile::dequantize() {
  std::vector<const ggml_tensor*> stored;
  size_t bytes = 0;
  for (int64_t i = 0; i < gguf_get_n_tensors(metadata_.get()); ++i) {
    stored.push_back(ggml_get_tensor(tensors_.get(), gguf_get_tensor_name(metadata_.get(), i)));
    const size_t data_bytes = static_cast<size_t>(ggml_nelements(stored.back())) * sizeof(float);
    bytes += ggml_tensor_overhead() + GGML_PAD(data_bytes, GGML_MEM_ALIGN);
  }
  ggml_context_ptr single(ggml_init({bytes, nullptr, /*no_alloc=*/false}));
  require(single != nullptr, "no memory for ", bytes, " bytes of weights");
  for (const ggml_tensor* from : stored) {
    ggml_tensor* to = ggml_new_tensor(single.get(), GGML_TYPE_F32, ggml_n_dims(from), from->ne);
    ggml_set_name(to, from->name);
    const auto to_float = ggml_get_type_traits(from->type)->to_float;
    if (from->type == GGML_TYPE_F32) {
      std::memcpy(to->data, from->data, ggml_nbytes(from));
    } else {
      require(to_float != nullptr, path_, ": ggml cannot dequantize ", from->name);
      to_float(from->data, static_cast<float*>(to->data), ggml_nelements(from));
    }
  }
  tensors_ = std::move(single);
}

std::optional<double> GgufFile::find_number(const std::string& key) const {
  const gguf_context* file = metadata_.get();
  const int64_t id = gguf_find_key(file, key.c_str());
  if (id < 0) return std::nullopt;
  switch (gguf_get_kv_type(file, id)) {
    case GGUF_TYPE_UINT8:
      return gguf_get_val_u8(file, id);
    case GGUF_TYPE_INT8:
      return gguf_get_val_i8(file, id);
    case GGUF_TYPE_UINT16:
      return gguf_get_val_u16(file, id);
    case GGUF_TYPE_INT16:
      return gguf_get_val_i16(file, id);
    case GGUF_TYPE_UINT32:
      return gguf_get_val_u32(file, id);
    case GGUF_TYPE_INT32:
      return gguf_get_val_i32(file, id);
    case GGUF_TYPE_UINT64:
      return static_cast<double>(gguf_get_val_u64(file, id));
    case GGUF_TYPE_INT64:
      return static_cast<double>(gguf_get_val_i64(file, id));
    case GGUF_TYPE_FLOAT32:
      return static_cast<double>(gguf_get_val_f32(file, id));
    case GGUF_TYPE_FLOAT64:
      return gguf_get_val_f64(file, id);
    case GGUF_TYPE_BOOL:
      return gguf_get_val_bool(file, id) ? 1 : 0;
    default:
      break;
  }
  fail(path_ + ": the value of " + key + " is not one number");
}

std::optional<std::string> GgufFile::find_text(const std::string& key) const {
  const int64_t id = gguf_find_key(metadata_.get(), key.c_str());
  if (id < 0) return std::nullopt;
  require(gguf_get_kv_type(metadata_.get(), id) == GGUF_TYPE_STRING, path_, ": the value of ", key,
          " is not text");
  return gguf_get_val_str(metadata_.get(), id);
}

double GgufFile::number(const std::string& key) const {
  const auto value = find_number(key);
  require(value.has_value(), path_, " has no ", key);
  return *value;
}

std::string GgufFile::text(const std::string& key) const {
  const auto value = find_text(key);
  require(value.has_value(), path_, " has no ", key);
  return *value;
}

ggml_tensor* GgufFile::find_tensor(const std::string& name) {
  read_.insert(name);
  return ggml_get_tensor(tensors_.get(), name.c_str());
}

ggml_tensor* GgufFile::tensor(const std::string& name) {
  ggml_tensor* found = find_tensor(name);
  require(found != nullptr, path_, " has no tensor ", name);
  return found;
}

std::vector<std::string> GgufFile::unread_tensors() const {
  std::vector<std::string> names;
  for (int64_t i = 0; i < gguf_get_n_tensors(metadata_.get()); ++i) {
    const char* name = gguf_get_tensor_name(metadata_.get(), i);
    if (read_.count(name) == 0) names.emplace_back(name);
  }
  return names;
}

}  // namespace squat_llama
