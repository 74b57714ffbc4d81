// Where the engine keeps keys and values, and how it attends to them.
#pragma once

#include <ggml.h>

#include <functional>
#include <memory>
#include <string>

#include "model_config.hpp"

namespace squat {
class QueryMoments;
}

namespace squat_llama {

/// What a cache is made for.
struct CacheOptions {
  int64_t capacity;   ///< most tokens of a sequence
  int threads = 1;    ///< to attend on
  int sequences = 1;  ///< most of them that next_sequence() starts, the first included
  const squat::QueryMoments* moments = nullptr;  ///< for caches that ask for them
};

/// Bytes that a cache holds, by what they are.
struct CacheBytes {
  double codes = 0;     ///< quantized elements; all of them where a format does not quantize
  double scales = 0;    ///< scales, zero points and norms
  double reserved = 0;  ///< places of tokens to come
  double residual = 0;  ///< newest tokens in full precision
  double other = 0;     ///< subspaces, rotations, bookkeeping
  double elements = 0;  ///< how many numbers `codes` and `scales` stand for

  double total() const { return codes + scales + reserved + residual + other; }
  double bits_per_element() const { return elements > 0 ? 8 * (codes + scales) / elements : 0; }
};

/// The graph of one forward pass, as far as a cache needs it.
class Graph {
 public:
  /// Applies the model's RoPE to queries or keys [head_dim, heads, tokens].
  using Rotate = std::function<ggml_tensor*(ggml_tensor*)>;

  Graph(ggml_context* context, ggml_cgraph* nodes, int64_t position, int64_t tokens, Rotate rotate)
      : context_(context),
        nodes_(nodes),
        position_(position),
        tokens_(tokens),
        rotate_(std::move(rotate)) {}

  ggml_context* context() const { return context_; }
  ggml_cgraph* nodes() const { return nodes_; }
  int64_t position() const { return position_; }  ///< tokens before the first of this pass
  int64_t tokens() const { return tokens_; }

  ggml_tensor* rotated(ggml_tensor* states) const { return rotate_(states); }

  /// The causal mask [position + tokens, tokens]. Null for one token, which sees everything.
  ggml_tensor* causal_mask();
  /// The mask if a cache asked for it.
  ggml_tensor* used_mask() const { return mask_; }

 private:
  ggml_context* context_;
  ggml_cgraph* nodes_;
  int64_t position_;
  int64_t tokens_;
  Rotate rotate_;
  ggml_tensor* mask_ = nullptr;
};

class KvCache {
 public:
  virtual ~KvCache() = default;

  /// Adds to the graph: append the keys and values of this pass's tokens to the layer, then attend.
  /// query [head_dim, query_heads, tokens] and key [head_dim, kv_heads, tokens] come after RoPE
  /// unless applies_rope(), value is shaped like key (fastest dimension first). Returns
  /// [head_dim * query_heads, tokens].
  virtual ggml_tensor* attention(Graph& graph, int layer, ggml_tensor* query, ggml_tensor* key,
                                 ggml_tensor* value) = 0;

  /// Whether queries and keys come before RoPE, which the cache applies.
  virtual bool applies_rope() const { return false; }
  /// A bound of the nodes and views that attention() makes.
  virtual int nodes_per_layer() const { return 24; }
  /// Whether keys and values are appended by the node that attention() returns; otherwise by nodes
  /// that are in the graph already.
  virtual bool stores_by_attending() const { return false; }

  /// Called after a graph was computed. Throws what went wrong inside it.
  virtual void finish(int64_t tokens) = 0;

  virtual int64_t size() const = 0;  ///< tokens held, of the sequence at hand
  virtual void clear() = 0;
  /// Starts another sequence. A cache that holds several keeps those before, and what they share.
  virtual void next_sequence() { clear(); }
  virtual CacheBytes bytes() const = 0;
};

}  // namespace squat_llama
