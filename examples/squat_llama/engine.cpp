#include "engine.hpp"

#include <ggml-cpu.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "require.hpp"

namespace squat_llama {
namespace {

constexpr int kNodesPerLayer = 40;  // a generous bound, without the cache

ggml_tensor* apply(ggml_context* context, const Linear& linear, ggml_tensor* x) {
  ggml_tensor* y = ggml_mul_mat(context, linear.weight, x);
  return linear.bias == nullptr ? y : ggml_add(context, y, linear.bias);
}

ggml_tensor* rms_norm(ggml_context* context, ggml_tensor* x, ggml_tensor* weight, float epsilon) {
  return ggml_mul(context, ggml_rms_norm(context, x, epsilon), weight);
}

void set_causal(ggml_tensor* mask, int64_t position) {
  const int64_t width = mask->ne[0];
  const ggml_fp16_t seen = ggml_fp32_to_fp16(0);
  const ggml_fp16_t hidden = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity());
  std::vector<ggml_fp16_t> row(static_cast<size_t>(width));
  for (int64_t i = 0; i < mask->ne[1]; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      row[static_cast<size_t>(j)] = j <= position + i ? seen : hidden;
    }
    ggml_backend_tensor_set(mask, row.data(), static_cast<size_t>(i) * mask->nb[1], mask->nb[1]);
  }
}

}  // namespace

struct Engine::Inputs {
  ggml_tensor* tokens;     ///< [tokens]
  ggml_tensor* positions;  ///< [tokens]
  ggml_tensor* rows;       ///< which tokens get logits
};

ggml_tensor* Graph::causal_mask() {
  if (tokens_ == 1 || mask_ != nullptr) return mask_;
  mask_ = ggml_new_tensor_2d(context_, GGML_TYPE_F16, position_ + tokens_, tokens_);
  ggml_set_input(mask_);
  return mask_;
}

void Engine::ThreadpoolDeleter::operator()(ggml_threadpool* pool) const {
  ggml_threadpool_free(pool);
}

Engine::Engine(const Model& model, int threads)
    : model_(model), threads_(threads), backend_(ggml_backend_cpu_init()) {
  require(threads >= 1, "the number of threads is ", threads, "; it must be at least 1");
  ggml_threadpool_params params = ggml_threadpool_params_default(threads);
  threadpool_.reset(ggml_threadpool_new(&params));
  ggml_backend_cpu_set_n_threads(backend_.get(), threads);
  ggml_backend_cpu_set_threadpool(backend_.get(), threadpool_.get());
  allocator_.reset(ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend_.get())));
}

squat::Matrix<float> Engine::forward(const std::vector<Token>& tokens, KvCache& cache,
                                     int64_t rows) {
  const auto count = static_cast<int64_t>(tokens.size());
  require(count >= 1 && rows >= 1 && rows <= count, "a pass over ", count,
          " tokens cannot return the logits of ", rows);
  for (const Token token : tokens) {
    require(token >= 0 && token < model_.vocabulary(), "token ", token,
            " is not in the vocabulary of ", model_.vocabulary());
  }

  const size_t max_nodes = static_cast<size_t>(model_.config().layers + 1) *
                           static_cast<size_t>(kNodesPerLayer + cache.nodes_per_layer());
  const size_t meta_bytes =
      max_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(max_nodes, false);
  const ggml_context_ptr context(ggml_init({meta_bytes, nullptr, /*no_alloc=*/true}));
  Inputs inputs{ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, count),
                ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, count),
                ggml_new_tensor_1d(context.get(), GGML_TYPE_I32, rows)};
  for (ggml_tensor* input : {inputs.tokens, inputs.positions, inputs.rows}) ggml_set_input(input);
  const auto rotate = [&](ggml_tensor* states) {
    const Rotary& r = model_.config().rotary;
    return ggml_rope_ext(context.get(), states, inputs.positions, model_.rotary_factors(), r.dims,
                         r.mode, r.original_context, r.base, r.scale, r.extrapolation,
                         r.attention_factor, r.beta_fast, r.beta_slow);
  };
  Graph graph(context.get(), ggml_new_graph_custom(context.get(), max_nodes, false), cache.size(),
              count, rotate);
  ggml_tensor* logits = build(graph, cache, inputs);
  ggml_set_output(logits);
  ggml_build_forward_expand(graph.nodes(), logits);
  require(ggml_gallocr_alloc_graph(allocator_.get(), graph.nodes()), "no memory for a pass over ",
          count, " tokens");

  std::vector<int32_t> numbers(tokens.begin(), tokens.end());
  ggml_backend_tensor_set(inputs.tokens, numbers.data(), 0, ggml_nbytes(inputs.tokens));
  if (inputs.positions->buffer != nullptr) {  // not where the cache turns keys and queries
    std::iota(numbers.begin(), numbers.end(), static_cast<int32_t>(graph.position()));
    ggml_backend_tensor_set(inputs.positions, numbers.data(), 0, ggml_nbytes(inputs.positions));
  }
  std::iota(numbers.begin(), numbers.begin() + rows, static_cast<int32_t>(count - rows));
  ggml_backend_tensor_set(inputs.rows, numbers.data(), 0, ggml_nbytes(inputs.rows));
  if (graph.used_mask() != nullptr && graph.used_mask()->buffer != nullptr)
    set_causal(graph.used_mask(), graph.position());

  const ggml_status status = ggml_backend_graph_compute(backend_.get(), graph.nodes());
  cache.finish(count);
  require(status == GGML_STATUS_SUCCESS, "ggml: ", ggml_status_to_string(status));

  squat::Matrix<float> result(rows, model_.vocabulary());
  ggml_backend_tensor_get(logits, result.data(), 0, ggml_nbytes(logits));
  return result;
}

squat::Matrix<float> Engine::read_prompt(const std::vector<Token>& prompt, KvCache& cache,
                                         int batch) {
  require(!prompt.empty() && batch >= 0, "a prompt of ", prompt.size(), " tokens in passes of ",
          batch, "; it needs a token, and 0 or more in a pass");
  const std::ptrdiff_t most = batch == 0 ? prompt.end() - prompt.begin() : batch;
  squat::Matrix<float> logits;
  for (auto begin = prompt.begin(); begin != prompt.end();) {
    const auto end = begin + std::min(most, prompt.end() - begin);
    logits = forward({begin, end}, cache);
    begin = end;
  }
  return logits;
}

ggml_tensor* Engine::build(Graph& graph, KvCache& cache, const Inputs& inputs) const {
  ggml_context* context = graph.context();
  const float epsilon = model_.config().norm_epsilon;
  ggml_tensor* x = ggml_get_rows(context, model_.token_embedding(), inputs.tokens);
  for (int i = 0; i < model_.config().layers; ++i) {
    const Layer& layer = model_.layers()[static_cast<size_t>(i)];
    ggml_tensor* mixed =
        attention_block(graph, cache, i, rms_norm(context, x, layer.attention_norm, epsilon));
    if (i + 1 == model_.config().layers) {  // the rest of the last layer is per token
      mixed = ggml_get_rows(context, mixed, inputs.rows);
      x = ggml_get_rows(context, x, inputs.rows);
    }
    x = ggml_add(context, x, mixed);
    ggml_tensor* h = rms_norm(context, x, layer.feed_forward_norm, epsilon);
    h = ggml_swiglu_split(context, apply(context, layer.gate, h), apply(context, layer.up, h));
    x = ggml_add(context, x, apply(context, layer.down, h));
  }
  return apply(context, model_.output(), rms_norm(context, x, model_.output_norm(), epsilon));
}

ggml_tensor* Engine::attention_block(Graph& graph, KvCache& cache, int index,
                                     ggml_tensor* x) const {
  ggml_context* context = graph.context();
  const ModelConfig& config = model_.config();
  const Layer& layer = model_.layers()[static_cast<size_t>(index)];
  const auto heads = [&](const Linear& linear, int count, ggml_tensor* norm = nullptr) {
    ggml_tensor* states =
        ggml_reshape_3d(context, apply(context, linear, x), config.head_dim, count, x->ne[1]);
    return norm == nullptr ? states : rms_norm(context, states, norm, config.norm_epsilon);
  };
  ggml_tensor* query = heads(layer.query, config.query_heads, layer.query_norm);
  ggml_tensor* key = heads(layer.key, config.kv_heads, layer.key_norm);
  ggml_tensor* value = heads(layer.value, config.kv_heads);
  if (!cache.applies_rope()) {
    query = graph.rotated(query);
    key = graph.rotated(key);
  }
  return apply(context, layer.output, cache.attention(graph, index, query, key, value));
}

}  // namespace squat_llama
