// A SQuat cache, as libsquat_llama.so puts programs of llama.cpp on it.
#pragma once

#include <squat/model_shape.hpp>

#include "session.hpp"

namespace squat {
class LlamaContext;
}

namespace squat_llama {

class SquatSession : public Session {
 public:
  SquatSession(const Model& model, const SquatSpec& spec, const SessionOptions& options);
  ~SquatSession() override;

  CacheBytes bytes() const override;

 protected:
  llama_context* context() override;
  std::int32_t decode(const llama_batch& batch) override;

 private:
  std::unique_ptr<squat::LlamaContext> context_;
};

/// What the model's graph asks of attention. Fails on a model that a SQuat cache does not serve.
squat::ModelShape attention_shape(const Model& model);

}  // namespace squat_llama
