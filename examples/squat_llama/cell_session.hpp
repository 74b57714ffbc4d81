// llama.cpp's own cache, in one of its own types or as another codec leaves it.
#pragma once

#include <memory>
#include <set>

#include "cell_rounding.hpp"
#include "session.hpp"

namespace squat_llama {

class CellSession : public Session {
 public:
  /// On cells of a type of llama.cpp's, as llama.cpp attends to them: q4_0 and others are rotated.
  /// With GGML_TYPE_F32, attention is in single precision.
  CellSession(const Model& model, ggml_type type, const SessionOptions& options);

  /// On cells in single precision that hold what `rounding` leaves of keys and values.
  CellSession(const Model& model, std::unique_ptr<CellRounding> rounding,
              const SessionOptions& options);

  CacheBytes bytes() const override;

 protected:
  llama_context* context() override { return context_.get(); }
  std::int32_t decode(const llama_batch& batch) override {
    return llama_decode(context_.get(), batch);
  }

 private:
  CellSession(const Model& model, ggml_type type, std::unique_ptr<CellRounding> rounding,
              const SessionOptions& options);
  static bool on_node(ggml_tensor* node, bool ask, void* self);

  std::unique_ptr<CellRounding> rounding_;  // none with cells of llama.cpp's own types
  double width_;                            // numbers of a token in all layers
  llama_context_ptr context_;
  std::set<const ggml_tensor*> cells_;
};

}  // namespace squat_llama
