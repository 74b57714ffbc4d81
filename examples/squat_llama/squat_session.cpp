#include "squat_session.hpp"

#include <squat/llama_cpp.hpp>

namespace squat_llama {
namespace {

/// Numbers of a layer's tokens that are packed, of one sequence.
double packed_elements(const squat::llama_cpp::Cache& cache, squat::Index layer,
                       const squat::CallOptions& options) {
  const squat::LayerShape& shape = cache.shape().layer(layer);
  if (shape.kv_layer >= 0) return 0;  // those of another layer
  const squat::Config& config = cache.config();
  const squat::Index residual = config.residual_length;
  const squat::Index size = cache.size(layer, options), first = cache.first(layer, options);
  const squat::Index values = std::max(size - residual, first) - first;
  const squat::Index step = config.rolling_residual ? config.token_group_size : residual;
  const bool per_token = config.key_scales == squat::KeyScales::per_token;
  const squat::Index keys = per_token         ? values
                            : size < residual ? 0
                                              : (size - residual) / step * step + step - first;
  return static_cast<double>(shape.kv_heads *
                             (keys * shape.head_dim + values * shape.own_value_width()));
}

}  // namespace

SquatSession::SquatSession(const Model& model, const SquatSpec& spec, const SessionOptions& options)
    : Session(model, options),
      context_(std::make_unique<squat::LlamaContext>(model.get(), context_params(model, options),
                                                     spec.config)) {
  squat::require(!spec.calibrated || options.moments != nullptr,
                 "a cache with calibrated=true needs query moments (--moments FILE)");
  if (spec.calibrated) context_->calibrate(*options.moments);
}

SquatSession::~SquatSession() = default;

llama_context* SquatSession::context() { return *context_; }
std::int32_t SquatSession::decode(const llama_batch& batch) { return context_->decode(batch); }

CacheBytes SquatSession::bytes() const {
  const squat::llama_cpp::Cache& cache = context_->cache();
  const squat::MemoryUsage usage = cache.memory();
  CacheBytes bytes;
  bytes.quantized = static_cast<double>(usage.codes + usage.scales + usage.headers);
  bytes.total = static_cast<double>(usage.total());
  squat::CallOptions options;
  for (options.sequence = 0; options.sequence < cache.sequences(); ++options.sequence)
    for (squat::Index layer = 0; layer < cache.shape().layers; ++layer)
      bytes.elements += packed_elements(cache, layer, options);
  return bytes;
}

squat::ModelShape attention_shape(const Model& model) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 256;
  return squat::LlamaContext(model.get(), params, squat::Config::recommended()).cache().shape();
}

}  // namespace squat_llama
