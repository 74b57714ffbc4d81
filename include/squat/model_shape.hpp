// What the attention of a model looks like.
#pragma once

#include <algorithm>
#include <squat/error.hpp>
#include <squat/matrix.hpp>
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
  Index dims = 0;  ///< the first so many channels turn: even, at most head_dim; 0: head_dim
  double base = 10000;
  std::vector<double> factors;  ///< one a pair (rope_freqs of llama.cpp); empty: all are 1
};

/// The attention of a transformer. Query head h reads kv head h / (query_heads / kv_heads).
struct ModelShape {
  Index layers = 0;
  Index query_heads = 0;
  Index kv_heads = 0;        ///< divides query_heads: equal (MHA), fewer (GQA) or one (MQA)
  Index head_dim = 0;        ///< a multiple of 8, at most 512
  double softmax_scale = 0;  ///< factor on query-key products; 0 stands for 1 / sqrt(head_dim)
  /// With pairing none queries and keys come after position embedding. Otherwise both come before
  /// it: keys are stored so, and attention turns them, and the queries, to their slots in the
  /// sequence, padding included. Only differences of positions matter, so that padding on the left
  /// changes nothing.
  Rope rope = {};
  /// Per layer: how many tokens a query sees, itself included; 0: all. Empty: all layers see all.
  /// Tokens that Config::full_precision_tokens keeps are seen beyond the window, as attention
  /// sinks; with full_precision_tokens = 0 the window is a plain one.
  std::vector<Index> windows = {};

  Index heads_per_kv() const { return query_heads / kv_heads; }
  Index window(Index layer) const {
    return windows.empty() ? 0 : windows[static_cast<std::size_t>(layer)];
  }
};

namespace detail {

inline void check(const Rope& rope, Index head_dim) {
  require(rope.pairing == RopePairing::none || rope.pairing == RopePairing::halves ||
              rope.pairing == RopePairing::interleaved,
          "rope.pairing is ", static_cast<int>(rope.pairing),
          "; it must be none (0), halves (1) or interleaved (2)");
  require(rope.dims >= 0 && rope.dims <= head_dim && rope.dims % 2 == 0, "rope.dims is ", rope.dims,
          "; it must be even and at most head_dim (", head_dim, "), or 0 for head_dim");
  require(std::isfinite(rope.base) && rope.base > 0, "rope.base is ", rope.base,
          "; it must be finite and positive");
  const std::size_t pairs = static_cast<std::size_t>(rope.dims == 0 ? head_dim : rope.dims) / 2;
  require(rope.factors.empty() || rope.factors.size() == pairs, "rope.factors has ",
          rope.factors.size(), " entries; there are ", pairs, " pairs");
  for (const double factor : rope.factors)
    require(std::isfinite(factor) && factor > 0, "rope.factors holds ", factor,
            "; it must be finite and positive");
}

inline void check(const ModelShape& shape) {
  require(shape.layers >= 1, "shape.layers is ", shape.layers, "; it must be at least 1");
  require(shape.kv_heads >= 1, "shape.kv_heads is ", shape.kv_heads, "; it must be at least 1");
  require(shape.query_heads >= 1 && shape.query_heads % shape.kv_heads == 0,
          "shape.query_heads is ", shape.query_heads, "; it must be a positive multiple of the ",
          shape.kv_heads, " kv heads");
  require(shape.head_dim >= 8 && shape.head_dim <= 512 && shape.head_dim % 8 == 0,
          "shape.head_dim is ", shape.head_dim, "; it must be a multiple of 8 from 8 to 512");
  require(std::isfinite(shape.softmax_scale) && shape.softmax_scale >= 0, "shape.softmax_scale is ",
          shape.softmax_scale, "; it must be positive, or 0 for 1 / sqrt(head_dim)");
  check(shape.rope, shape.head_dim);
  require(shape.windows.empty() || static_cast<Index>(shape.windows.size()) == shape.layers,
          "shape.windows has ", shape.windows.size(), " entries; it must have one for each of the ",
          shape.layers, " layers, or none");
  constexpr Index widest = Index{1} << 48;
  for (const Index window : shape.windows)
    require(window >= 0 && window <= widest, "shape.windows holds ", window,
            "; a window must be 1 to ", widest, ", or 0 for all tokens");
}

}  // namespace detail

}  // namespace squat
