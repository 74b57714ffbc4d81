// A context of llama.cpp whose keys and values are in a SQuat cache.
//
// The program brings llama.cpp (llama.h, ggml.h, and its libraries). No other header of squat needs
// it. Requires a processor's context: GPU layers are refused.
#pragma once

#include <llama.h>

#include <memory>
#include <optional>
#include <squat/llama_cpp/attention_operator.hpp>
#include <squat/llama_cpp/batch_tokens.hpp>
#include <squat/llama_cpp/functions.hpp>
#include <squat/llama_cpp/model_attention.hpp>
#include <squat/llama_cpp/probe.hpp>
#include <squat/llama_cpp/recurrent_order.hpp>
#include <squat/llama_cpp/sequences.hpp>
#include <squat/llama_cpp/supported.hpp>

namespace squat {

/// A llama_context that keeps the keys and values of all tokens in a SQuatCache, in place of its
/// own cells, and computes attention over that. It is used like a llama_context, into which it
/// converts, but for decode() and what concerns memory, which are members here:
///
///     squat::LlamaContext context(model, llama_context_default_params(),
///                                 squat::Config::recommended(2.5));
///     context.decode(batch);
///     const float* logits = llama_get_logits_ith(context, -1);
///
/// How: llama.cpp's scheduler shows every graph to a callback before it is computed. There each
/// attention operator becomes a custom one, so that ggml's threads run squat's attention in its
/// place. llama.cpp's own cells hold a batch, and are empty before the next one (of a model with
/// recurrent layers, but for each sequence's last token).
///
/// Serves decoders: causal attention, capped scores, learned sinks, ALiBi, latent attention,
/// sliding windows, chunks, heads and widths by layer, layers that share keys and values, recurrent
/// layers in between; embeddings of images, which may see one another, and M-RoPE. What it cannot
/// compute it refuses when the context is made, or before a batch is computed, with a squat::Error
/// that says why.
class LlamaContext {
 public:
  /// Makes the context. `params.n_ctx` is how many tokens the cache may hold. Calls `llama` where a
  /// program calls functions that a library in front of llama.cpp replaces.
  LlamaContext(llama_model* model, const llama_context_params& params, const Config& config,
               const llama_cpp::Functions& llama = llama_cpp::Functions::linked())
      : llama_(llama),
        user_eval_(params.cb_eval),
        user_eval_data_(params.cb_eval_user_data),
        user_abort_(params.abort_callback),
        user_abort_data_(params.abort_callback_data),
        has_embeddings_(params.embeddings),
        context_(nullptr, llama.free) {
    llama_cpp::check_supported(model, params);
    set_sizes(model, params);
    context_.reset(llama_.init_from_model(model, own_params(model, params)));
    require(context_ != nullptr, "llama.cpp could not make the context (see its messages)");
    require(memory() != nullptr, "the model (", llama_cpp::architecture(model),
            ") keeps no keys and values");

    const llama_cpp::ModelAttention attention = inspect(model);
    const ModelShape shape = attention.shape(model);
    const std::vector<llama_cpp::AttentionLayer> layers = attention.layers();
    cache_.emplace(shape, config, Index{n_seq_max_});
    if (llama_model_is_hybrid(model)) states_.emplace(context_.get(), llama_);
    sequences_.emplace(*cache_, n_ctx_seq_, n_ctx_, states_ ? &*states_ : nullptr,
                       llama_cpp::has_planes(model));
    operator_.emplace(*cache_, layers);
    hooks_.reserve(layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i) {
      hooks_.push_back({&*operator_, i, nullptr});
      readers_of_[layers[i].key_cells].layers.push_back(i);
    }
    for (Hook& hook : hooks_)
      hook.custom = std::make_unique<llama_cpp::CustomOperator>(&compute, &hook);
    for (const llama_cpp::AttentionLayer& layer : layers)
      for (const ggml_tensor* cells : {layer.key_cells, layer.value_cells})
        llama_cpp::give_back(*cells, 0, cells->ne[1]);
  }

  LlamaContext(const LlamaContext&) = delete;
  LlamaContext& operator=(const LlamaContext&) = delete;

  llama_context* get() const { return context_.get(); }
  operator llama_context*() const { return context_.get(); }  // where llama.h wants one
  llama_memory_t memory() const { return llama_get_memory(context_.get()); }

  const llama_cpp::Cache& cache() const { return *cache_; }
  llama_cpp::Sequences& sequences() { return *sequences_; }
  const llama_cpp::Sequences& sequences() const { return *sequences_; }

  /// Takes the metric of keys from `moments`, as SQuatCache::calibrate does, for good. Fails unless
  /// they are of this model, and no token is held.
  void calibrate(const QueryMoments& moments) {
    cache_->calibrate(moments);
    moments_ = moments;
  }

  /// As llama_n_ctx and llama_n_ctx_seq say of a context of its own cells.
  std::uint32_t n_ctx() const { return n_ctx_; }
  std::uint32_t n_ctx_seq() const { return n_ctx_seq_; }

  /// Bytes that the tokens of all sequences would take in llama.cpp's cells of half precision.
  Index bytes_in_f16() const {
    const ModelShape& shape = cache_->shape();
    Index numbers = 0;  // a token
    for (Index layer = 0; layer < shape.layers; ++layer) {
      const LayerShape& one = shape.layer(layer);
      numbers += one.kv_heads * (one.head_dim + one.own_value_width());
    }
    return sequences_->total() * numbers * 2;
  }

  /// llama_decode: computes a batch, each token of which goes on with its sequences, and returns
  /// what llama_decode returns. 1: the batch does not fit, and nothing changed. Fails on a batch
  /// that the cache cannot take (nothing changed), and where something goes wrong while it is
  /// computed (the tokens of the graphs that were complete remain, as in llama.cpp).
  std::int32_t decode(llama_batch batch) {
    llama_cpp::BatchTokens read = llama_cpp::read_batch(batch, *sequences_);
    if (batch.pos == nullptr) batch.pos = read.positions.data();
    return process(read.tokens, [&] { return llama_.decode(context_.get(), batch); });
  }

  /// Computes the batch of these `tokens` by any function of llama.cpp that does.
  template <class Compute>
  std::int32_t process(const std::vector<llama_cpp::BatchToken>& tokens, const Compute& compute) {
    using llama_cpp::BatchToken;
    const std::uint32_t most = llama_n_ubatch(context_.get());
    require(is_causal_ || tokens.size() <= most, "the batch has ", tokens.size(),
            " tokens; while attention is not causal it must have at most n_ubatch, ", most);
    if (states_)
      for (const BatchToken& token : tokens)
        require(token.more.empty(), "a token of the batch belongs to sequences ", token.sequence,
                " and ", token.more.front(), "; with recurrent layers it must belong to one");
    if (!sequences_->have_room(tokens)) return 1;
    std::vector<BatchToken> reordered;
    if (states_) reordered = llama_cpp::recurrent_order(tokens, most, has_embeddings_);
    const std::vector<BatchToken>& order = states_ ? reordered : tokens;
    operator_->begin(order, states_ ? states_->cells() : std::vector<llama_cpp::CellToken>());
    for (auto& [cells, readers] : readers_of_) readers.asked = 0;
    is_begun_ = false;
    const std::int32_t result = compute();
    if (!states_) llama_.memory_clear(memory(), false);  // sequences may go on at any position then
    const bool is_computed = result == 0 && !operator_->has_failed();
    const Index done =
        is_computed ? operator_->tokens_done() : operator_->tokens_before_last_graph();
    const auto count = static_cast<Index>(tokens.size());
    const std::string lost = is_begun_ ? sequences_->took(order, done) : "";
    if (states_ && is_computed) states_->keep_last(operator_->cells());
    if (operator_->has_failed()) fail(operator_->error() + (lost.empty() ? "" : "; ") + lost);
    require(lost.empty(), lost);
    require(!is_computed || done == count, "llama.cpp computed the batch, but ", count - done,
            " of its ", count, " tokens met no attention operator");
    return result;
  }

  /// llama_memory_clear.
  void clear() {
    sequences_->clear();
    if (moments_) cache_->calibrate(*moments_);
    llama_.memory_clear(memory(), false);
  }

  /// To be called where llama_set_embeddings is: it changes the order in which recurrent layers see
  /// the tokens of a batch.
  void set_embeddings(bool has_embeddings) { has_embeddings_ = has_embeddings; }

  /// To be called where llama_set_causal_attn is: with false, a batch must fit one graph
  /// (n_ubatch), whose tokens see one another.
  void set_causal(bool is_causal) { is_causal_ = is_causal; }

  /// llama_set_abort_callback.
  void set_abort_callback(ggml_abort_callback callback, void* data) {
    user_abort_ = callback;
    user_abort_data_ = data;
  }

 private:
  /// What the operator of a layer is called with.
  struct Hook {
    llama_cpp::AttentionOperator* attention;
    std::size_t layer;
    std::unique_ptr<llama_cpp::CustomOperator> custom;
  };

  /// Layers that read the same cells: every graph has all of them, in order.
  struct Readers {
    std::vector<std::size_t> layers;
    std::size_t asked = 0;  // of a batch
  };

  /// What the context seems to have, as llama.cpp rounds it.
  void set_sizes(const llama_model* model, const llama_context_params& params) {
    const auto padded = [](std::uint32_t size) { return (size + 255) / 256 * 256; };
    n_seq_max_ = std::max(1U, params.n_seq_max);
    n_ctx_ = padded(wanted_tokens(model, params));
    n_ctx_seq_ = params.kv_unified ? n_ctx_ : padded(n_ctx_ / n_seq_max_);
    if (!params.kv_unified) n_ctx_ = n_ctx_seq_ * n_seq_max_;
  }

  static std::uint32_t wanted_tokens(const llama_model* model, const llama_context_params& params) {
    return params.n_ctx != 0 ? params.n_ctx
                             : static_cast<std::uint32_t>(llama_model_n_ctx_train(model));
  }

  /// What llama.cpp is asked for: cells for a batch.
  llama_context_params own_params(const llama_model* model, llama_context_params params) {
    params.n_batch = std::min(params.n_batch, wanted_tokens(model, params));
    params.n_ctx = params.n_batch;
    if (llama_model_is_hybrid(model)) {
      params.n_ctx += n_seq_max_;  // cells that stay with states
      params.n_rs_seq = 0;         // states to go back to; llama_n_rs_seq says that there are none
    }
    // LongRoPE has two sets of factors, and llama.cpp goes by n_ctx to choose.
    const std::string original =
        llama_cpp::architecture_metadata(model, "rope.scaling.original_context_length");
    if (!original.empty() &&
        llama_cpp::architecture_metadata(model, "rope.scaling.type") != "yarn") {
      const auto length = static_cast<std::uint32_t>(std::strtoul(original.c_str(), nullptr, 10));
      if (n_ctx_seq_ > length) params.n_ctx = std::max(params.n_ctx, length + 1);
    }
    params.kv_unified = true;
    params.swa_full = true;
    params.type_k = params.type_v = GGML_TYPE_F16;
    // Also where it is disabled, as Python's binding does: it is this operator that is replaced.
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.cb_eval = &LlamaContext::on_node;
    params.cb_eval_user_data = this;
    params.abort_callback = &LlamaContext::on_abort;
    params.abort_callback_data = this;
    return params;
  }

  /// Looks at the graph of a first token, and where layers may have windows at that of a token
  /// which does not see the first one through them.
  llama_cpp::ModelAttention inspect(const llama_model* model) {
    llama_cpp::ModelAttention attention;
    llama_cpp::Probe probe(context_.get(), llama_);
    probe_ = &probe;
    const auto is_attention = [](const ggml_tensor& node) {
      return node.op == GGML_OP_FLASH_ATTN_EXT;
    };
    probe.decode(
        0, 1,
        [&](ggml_tensor& node) {
          if (is_attention(node)) attention.add(node);
        },
        [&](const std::vector<const ggml_tensor*>& graph) { attention.look(graph); });
    const llama_pos width = llama_model_n_swa(model);
    if (width > 1) {
      probe.leave_ends(width);
      probe.decode(width, 1, [&](ggml_tensor& node) {
        if (is_attention(node)) attention.add_sight(node);
      });
    }
    probe_ = nullptr;
    return attention;
  }

  static bool on_node(ggml_tensor* node, bool ask, void* user_data) {
    LlamaContext& self = *static_cast<LlamaContext*>(user_data);
    if (self.probe_ != nullptr) {
      if (ask) self.probe_->on_node(*node);
      return !ask;
    }
    self.is_begun_ = true;
    if (ask && node->op == GGML_OP_SET_ROWS) self.note_cells(*node);
    if (ask && node->op == GGML_OP_FLASH_ATTN_EXT) self.replace(*node);
    // Where nobody wants to see the node, the graph stays in one piece.
    return self.user_eval_ != nullptr ? self.user_eval_(node, ask, self.user_eval_data_) : !ask;
  }

  void note_cells(const ggml_tensor& node) {
    const auto found = readers_of_.find(node.view_src);
    if (found != readers_of_.end())
      operator_->note_cells(found->second.layers.front(), *node.src[1]);
  }

  void replace(ggml_tensor& node) {
    const auto found = readers_of_.find(llama_cpp::AttentionNode::cells(node.src[1]));
    if (found == readers_of_.end()) {
      operator_->fail("a graph has an attention operator that keeps its keys elsewhere");
      node.op = GGML_OP_NONE;  // the graph is aborted
    } else {
      Readers& readers = found->second;
      hooks_[readers.layers[readers.asked++ % readers.layers.size()]].custom->replace(node);
    }
  }

  static void compute(ggml_tensor* node, int thread, int threads, void* user_data) {
    const Hook& hook = *static_cast<const Hook*>(user_data);
    hook.attention->run(*node, hook.layer, thread, threads);
  }

  static bool on_abort(void* user_data) {
    const LlamaContext& self = *static_cast<const LlamaContext*>(user_data);
    return (self.operator_ && self.operator_->has_failed()) ||
           (self.user_abort_ != nullptr && self.user_abort_(self.user_abort_data_));
  }

  llama_cpp::Functions llama_;
  ggml_backend_sched_eval_callback user_eval_;
  void* user_eval_data_;
  ggml_abort_callback user_abort_;
  void* user_abort_data_;
  std::uint32_t n_seq_max_ = 1, n_ctx_ = 0, n_ctx_seq_ = 0;
  bool is_causal_ = true;
  bool has_embeddings_;
  bool is_begun_ = false;              // the batch: a graph of it
  llama_cpp::Probe* probe_ = nullptr;  // while graphs are looked at
  std::optional<llama_cpp::Cache> cache_;
  std::optional<QueryMoments> moments_;  // that clear() must not forget
  std::optional<llama_cpp::RecurrentStates> states_;
  std::optional<llama_cpp::Sequences> sequences_;
  std::optional<llama_cpp::AttentionOperator> operator_;
  std::vector<Hook> hooks_;                                          // by layer
  std::unordered_map<const ggml_tensor*, Readers> readers_of_;       // by the cells of keys
  std::unique_ptr<llama_context, decltype(&::llama_free)> context_;  // the first to go
};

}  // namespace squat
