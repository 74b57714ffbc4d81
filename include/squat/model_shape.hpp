// What the attention of a model looks like.
#pragma once

#include <algorithm>
#include <cmath>
#include <squat/detail/finite.hpp>
#include <squat/error.hpp>
#include <string>
#include <tuple>
#include <vector>

namespace squat {

/// Which channels of a head turn together.
enum class RopePairing {
  none,         ///< nothing turns: positions are the caller's affair
  halves,       ///< channels i and i + dims / 2, as in GPT-NeoX
  interleaved,  ///< channels 2 i and 2 i + 1, as in the publication
};

/// How a position turns the channels of a head: pair i by base^(-2 i / dims) / factors[i] radians a
/// position.
struct Rope {
  RopePairing pairing = RopePairing::none;
  Index dims = 0;  ///< so many channels turn: even; 0: all from `first` on
  double base = 10000;
  std::vector<double> factors;  ///< one a pair (rope_freqs of llama.cpp); empty: all are 1
  /// Queries and keys come turned already, or with pairing none are the same at every position. The
  /// cache turns only what SQuatCache::shift() moves, which needs to know.
  bool is_applied = false;
  Index first = 0;  ///< channel from which on they turn

  /// Whether queries and keys come before position embedding.
  bool is_by_cache() const { return pairing != RopePairing::none && !is_applied; }
  /// Whether it is known how keys that move turn.
  bool is_known() const { return pairing != RopePairing::none || is_applied; }
};

/// The attention of a layer:
///
///     softmax over visible tokens t of (cap(softmax_scale q . k_t) - slope |p - p_t|)
///
/// at positions p and p_t, with cap(s) = softcap tanh(s / softcap). Query head h reads kv head
/// h / (query_heads / kv_heads).
struct LayerShape {
  Index query_heads = 0;
  Index kv_heads = 0;   ///< divides query_heads: equal (MHA), fewer (GQA) or one (MQA)
  Index head_dim = 0;   ///< width of queries and keys: 1 to 576
  Index value_dim = 0;  ///< width of values: 1 to 512; 0: head_dim
  /// Values are the first value_dim channels of keys (absorbed MLA). They are stored once, as keys;
  /// values that are handed over have no columns. These channels do not turn.
  bool values_in_keys = false;
  double softmax_scale = 0;  ///< factor on query-key products; 0 stands for 1 / sqrt(head_dim)
  /// With pairing none, or is_applied, queries and keys come after position embedding. Otherwise
  /// both come before it: keys are stored so, and attention turns them, and the queries, to their
  /// positions in the sequence, padding included. Only differences of positions matter, so that
  /// padding on the left changes nothing.
  Rope rope = {};
  Index window = 0;  ///< tokens that a query sees, itself included; 0: all
  /// Attention in chunks (Llama 4): a query sees the tokens of its own chunk, which begins at a
  /// multiple of `chunk`; 0: all. Not together with a window.
  Index chunk = 0;
  /// The first so many valid tokens of a sequence are seen beyond a window or chunk too, as
  /// attention sinks are (StreamingLLM); at most 1024. They stay in full precision.
  Index sink_tokens = 0;
  double softcap = 0;  ///< bound of scores, before slopes (Gemma 2, Grok); 0: none
  /// Per query head: a logit that joins the softmax and has no value (gpt-oss). It counts where the
  /// query's own token is in the cache, so that parts of one sequence have it once. Empty: none.
  std::vector<double> sink_logits = {};
  std::vector<double> alibi_slopes = {};  ///< per query head (MPT, BLOOM); empty: none
  /// An earlier layer whose keys and values this one reads, in place of any of its own (Gemma 3n);
  /// -1: its own. Queries of this layer do not shape the metric.
  Index kv_layer = -1;

  Index heads_per_kv() const { return query_heads / kv_heads; }
  Index value_width() const { return value_dim == 0 ? head_dim : value_dim; }
  /// Of values that are handed over.
  Index own_value_width() const { return values_in_keys ? 0 : value_width(); }
  double scale() const {
    return softmax_scale > 0 ? softmax_scale : 1 / std::sqrt(static_cast<double>(head_dim));
  }
};

/// The attention of a transformer. All layers are as the members of LayerShape say, unless by_layer
/// says otherwise:
///
///     ModelShape shape{layers, query_heads, kv_heads, head_dim};
///     shape.by_layer.assign(layers, shape);
///     shape.by_layer[1].window = 512;
struct ModelShape : LayerShape {
  ModelShape() = default;
  // Underscores, since some compilers warn of parameters that have the names of members.
  // NOLINTNEXTLINE(readability-identifier-naming)
  ModelShape(Index layers_, Index query_heads_, Index kv_heads_, Index head_dim_)
      : layers(layers_) {
    query_heads = query_heads_;
    kv_heads = kv_heads_;
    head_dim = head_dim_;
  }

  Index layers = 0;
  /// One for each layer, in place of what all have in common; empty: all are alike.
  std::vector<LayerShape> by_layer = {};

  const LayerShape& layer(Index i) const {
    return by_layer.empty() ? *this : by_layer[static_cast<std::size_t>(i)];
  }
};

inline bool operator==(const Rope& a, const Rope& b) {
  return std::tie(a.pairing, a.dims, a.base, a.factors, a.is_applied, a.first) ==
         std::tie(b.pairing, b.dims, b.base, b.factors, b.is_applied, b.first);
}

inline bool operator==(const LayerShape& a, const LayerShape& b) {
  const auto fields = [](const LayerShape& shape) {
    return std::tie(shape.query_heads, shape.kv_heads, shape.head_dim, shape.value_dim,
                    shape.values_in_keys, shape.softmax_scale, shape.rope, shape.window,
                    shape.chunk, shape.sink_tokens, shape.softcap, shape.sink_logits,
                    shape.alibi_slopes, shape.kv_layer);
  };
  return fields(a) == fields(b);
}

namespace detail {

inline constexpr Index max_head_dim = 576, max_value_dim = 512;

/// Messages call the shape `name`.
inline void check(const Rope& rope, Index head_dim, const std::string& name = "") {
  require(rope.pairing == RopePairing::none || rope.pairing == RopePairing::halves ||
              rope.pairing == RopePairing::interleaved,
          name, "rope.pairing is ", static_cast<int>(rope.pairing),
          "; it must be none (0), halves (1) or interleaved (2)");
  require(rope.first >= 0 && rope.first < head_dim && rope.first % 2 == 0, name, "rope.first is ",
          rope.first, "; it must be even and below head_dim (", head_dim, ")");
  const Index most = head_dim - rope.first;
  require(rope.dims >= 0 && rope.dims <= most && rope.dims % 2 == 0, name, "rope.dims is ",
          rope.dims, "; it must be even and at most head_dim - first (", most, "), or 0 for that");
  require(is_finite(rope.base) && rope.base > 0, name, "rope.base is ", rope.base,
          "; it must be finite and positive");
  require(rope.pairing == RopePairing::none || rope.dims != 0 || most % 2 == 0, name,
          "rope.dims is 0, for head_dim - first (", most,
          "), which is odd; channels turn in pairs");
  const std::size_t pairs = static_cast<std::size_t>(rope.dims == 0 ? most : rope.dims) / 2;
  require(rope.factors.empty() || rope.factors.size() == pairs, name, "rope.factors has ",
          rope.factors.size(), " entries; there are ", pairs, " pairs");
  for (const double factor : rope.factors)
    require(is_finite(factor) && factor > 0, name, "rope.factors holds ", factor,
            "; it must be finite and positive");
}

inline void check_head_table(const std::string& name, const std::vector<double>& table,
                             Index query_heads) {
  require(table.empty() || static_cast<Index>(table.size()) == query_heads, name, " has ",
          table.size(), " entries; it must have one for each of the ", query_heads,
          " query heads, or none");
  for (const double entry : table)
    require(is_finite(entry) && std::abs(entry) <= 1e30, name, " holds ", entry,
            "; it must be finite and at most 1e30 in magnitude");
}

/// Messages call the shape `name`, with a dot at the end.
inline void check(const LayerShape& shape, const std::string& name = "shape.") {
  require(shape.kv_heads >= 1, name, "kv_heads is ", shape.kv_heads, "; it must be at least 1");
  require(shape.query_heads >= 1 && shape.query_heads % shape.kv_heads == 0, name,
          "query_heads is ", shape.query_heads, "; it must be a positive multiple of the ",
          shape.kv_heads, " kv heads");
  require(shape.head_dim >= 1 && shape.head_dim <= max_head_dim, name, "head_dim is ",
          shape.head_dim, "; it must be 1 to ", max_head_dim);
  require(shape.value_dim >= 0 && shape.value_width() <= max_value_dim, name, "value_dim is ",
          shape.value_dim, "; it must be 1 to ", max_value_dim, ", or 0 for head_dim (",
          shape.head_dim, ")");
  require(is_finite(shape.softmax_scale) && shape.softmax_scale >= 0, name, "softmax_scale is ",
          shape.softmax_scale, "; it must be positive, or 0 for 1 / sqrt(head_dim)");
  check(shape.rope, shape.head_dim, name);
  require(!shape.values_in_keys || shape.value_width() <= shape.head_dim, name,
          "values_in_keys is true, and ", name, "value_dim ", shape.value_width(),
          "; keys have a head_dim of ", shape.head_dim);
  require(!shape.values_in_keys || shape.rope.pairing == RopePairing::none ||
              shape.rope.first >= shape.value_width(),
          name, "values_in_keys is true, and ", name, "rope.first ", shape.rope.first,
          "; it must be at least value_dim (", shape.value_width(), "): values do not turn");
  require(shape.window >= 0 && shape.window <= max_position, name, "window is ", shape.window,
          "; it must be 1 to ", max_position, ", or 0 for all tokens");
  require(shape.chunk >= 0 && shape.chunk <= max_position, name, "chunk is ", shape.chunk,
          "; it must be 1 to ", max_position, ", or 0 for all tokens");
  require(shape.window == 0 || shape.chunk == 0, name, "window is ", shape.window, " and ", name,
          "chunk ", shape.chunk, "; one of both must be 0");
  require(shape.sink_tokens >= 0 && shape.sink_tokens <= 1024, name, "sink_tokens is ",
          shape.sink_tokens, "; it must be 0 to 1024");
  require(is_finite(shape.softcap) && shape.softcap >= 0, name, "softcap is ", shape.softcap,
          "; it must be positive, or 0 for none");
  check_head_table(name + "sink_logits", shape.sink_logits, shape.query_heads);
  check_head_table(name + "alibi_slopes", shape.alibi_slopes, shape.query_heads);
}

inline void check(const ModelShape& shape) {
  require(shape.layers >= 1, "shape.layers is ", shape.layers, "; it must be at least 1");
  if (shape.by_layer.empty()) {
    require(shape.kv_layer == -1, "shape.kv_layer is ", shape.kv_layer,
            "; it must be -1: what all layers have in common cannot be another layer");
    return check(static_cast<const LayerShape&>(shape));
  }
  require(static_cast<Index>(shape.by_layer.size()) == shape.layers, "shape.by_layer has ",
          shape.by_layer.size(), " entries; it must have one for each of the ", shape.layers,
          " layers, or none");
  for (Index layer = 0; layer < shape.layers; ++layer) {
    const std::string name = "shape.by_layer[" + std::to_string(layer) + "].";
    const LayerShape& own = shape.layer(layer);
    check(own, name);
    if (own.kv_layer == -1) continue;
    require(own.kv_layer >= 0 && own.kv_layer < layer && shape.layer(own.kv_layer).kv_layer == -1,
            name, "kv_layer is ", own.kv_layer,
            "; it must be an earlier layer with keys and values of its own, or -1");
    const LayerShape& read = shape.layer(own.kv_layer);
    require(own.kv_heads == read.kv_heads && own.head_dim == read.head_dim &&
                own.value_width() == read.value_width() &&
                own.values_in_keys == read.values_in_keys && own.rope == read.rope &&
                own.sink_tokens == read.sink_tokens,
            name, "kv_layer is ", own.kv_layer,
            "; that layer must have the same kv_heads, head_dim, value_dim, values_in_keys, rope "
            "and sink_tokens");
    require((read.window == 0 || (own.window > 0 && own.window <= read.window)) &&
                (read.chunk == 0 || own.chunk == read.chunk),
            name, "kv_layer is ", own.kv_layer, ", which forgets what the layer sees: window is ",
            own.window, ", and ", read.window, " there; chunk ", own.chunk, ", and ", read.chunk);
  }
}

}  // namespace detail

}  // namespace squat
