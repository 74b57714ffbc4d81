// llama.cpp's own cache, in one of its own types or as another codec leaves it.
#pragma once

#include <optional>
#include <set>
#include <squat/model_shape.hpp>

#include "session.hpp"
#include "turbo_codec.hpp"

namespace squat_llama {

class CellSession : public Session {
 public:
  /// On cells of a type of llama.cpp's, as llama.cpp attends to them: q4_0 and others are rotated.
  /// With GGML_TYPE_F32, attention is in single precision.
  CellSession(const Model& model, ggml_type type, const SessionOptions& options);

  /// On cells in single precision that hold what is left of keys and values after TurboCodec, from
  /// before attention reads them. Needs heads of one width in all layers.
  CellSession(const Model& model, int turbo_bits, const SessionOptions& options);

  CacheBytes bytes() const override;

 protected:
  llama_context* context() override { return context_.get(); }
  std::int32_t decode(const llama_batch& batch) override {
    return llama_decode(context_.get(), batch);
  }

 private:
  CellSession(const Model& model, const squat::ModelShape& shape, ggml_type type,
              std::optional<int> turbo_bits, const SessionOptions& options);
  static bool on_node(ggml_tensor* node, bool ask, void* self);
  void round(ggml_tensor& node) const;

  std::optional<TurboCodec> codec_;
  double width_;  // numbers of a token in all layers
  llama_context_ptr context_;
  std::set<const ggml_tensor*> cells_;
};

}  // namespace squat_llama
