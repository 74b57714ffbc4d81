// Causal attention over a layer.
#pragma once

#include <optional>
#include <squat/decode_attention.hpp>
#include <squat/online_softmax.hpp>
#include <squat/rotary.hpp>

namespace squat {

/// A dequantized block at a time, for a tile of query rows at a time:
/// softmax(Q K^T * softmax_scale) V over `layer`, in the cache's compute type. A row sees the
/// tokens of its window up to its own position, the exact ones before it, and no padding; the row
/// of a padding token is zero, and so is one that sees nothing. out: [rows, query_heads *
/// head_dim]. Where `rope` is not null, queries and dequantized keys turn to their positions.
template <class Scalar>
void attend_exact(const LayerCache<Scalar>& layer, const ModelShape& shape, const RopeTable* rope,
                  const QueryRows<Scalar>& rows, MutableMatrixView<Scalar>& out, float* log_sum_exp,
                  Executor& executor) {
  using Real = ComputeType<Scalar>;
  const Index d = shape.head_dim, heads = shape.heads_per_kv();
  // Each tile dequantizes all that it sees, so it has as many rows as the second-level cache takes
  // gladly.
  const Index query_tile = std::max(std::max(Index{24576} / d, Index{256}) / heads, Index{1});
  const Real scale = static_cast<Real>(
      shape.softmax_scale > 0 ? shape.softmax_scale : 1 / std::sqrt(static_cast<double>(d)));
  const Index tiles = (rows.count() + query_tile - 1) / query_tile;

  const std::function<void(Index)> task = [&](Index index) {
    static thread_local OnlineSoftmax<Real> softmax;
    const Index kv_head = index / tiles, begin = index % tiles * query_tile;
    const Index end = std::min(begin + query_tile, rows.count());
    softmax.start((end - begin) * heads, d);
    // What any row sees, exact tokens before it aside.
    const TokenRange seen{layer.seen(rows.position(begin)).begin, rows.position(end)};
    Index row = 0;
    for (Index i = begin; i < end; ++i)
      for (Index g = 0; g < heads; ++g, ++row) {
        const Scalar* query = rows.queries.row(i).data() + (kv_head * heads + g) * d;
        for (Index c = 0; c < d; ++c)
          softmax.queries()(row, c) = scale * static_cast<Real>(query[c]);
      }
    std::optional<RopeWalk<Real>> walk;
    if (rope != nullptr) {
      walk.emplace(*rope);
      walk->rotate(rows.position(begin), softmax.queries().data(), end - begin, heads * d);
    }
    const auto absorb = [&](DecodedTokens<Real>& tokens) {
      if (walk) walk->rotate(tokens.first, tokens.keys.data(), tokens.count, d);
      softmax.absorb(tokens);
    };
    const auto show = [&](const auto& range) {
      for (Index i = begin; i < end; ++i)
        std::fill_n(&softmax.seen()[static_cast<std::size_t>((i - begin) * heads)], heads,
                    range(layer.seen(rows.position(i))));
    };
    if (layer.has_window()) {
      show([](const TokenRange& seen) { return TokenRange{0, seen.begin}; });
      for_exact_tokens(layer, kv_head, layer.seen(rows.position(end - 1)).begin, absorb);
    }
    show([](const TokenRange& seen) { return seen; });
    for_decoded_tokens(layer, kv_head, seen, absorb);
    row = 0;
    for (Index i = begin; i < end; ++i)
      for (Index g = 0; g < heads; ++g, ++row) {
        Scalar* result = out.row(i).data() + (kv_head * heads + g) * d;
        const bool padding = rows.is_padding(layer, i);
        if (padding)
          std::fill_n(result, d, Scalar(0));
        else
          softmax.finish(row, result);
        if (log_sum_exp != nullptr)
          log_sum_exp[i * shape.query_heads + kv_head * heads + g] =
              padding ? -std::numeric_limits<float>::infinity()
                      : static_cast<float>(softmax.log_sum_exp(row));
      }
  };
  // Errors in the choice of kernels belong to the caller's thread.
  simd::vector_kernels();
  simd::encode_kernels();
  executor.run(shape.kv_heads * tiles, std::ref(task));
}

/// attend_exact, or for few rows straight over the codes where `arithmetic` is fast. Codes cannot
/// turn: with `rope` the keys of every call are dequantized.
template <class Scalar>
void attend(const LayerCache<Scalar>& layer, const ModelShape& shape, const RopeTable* rope,
            Arithmetic arithmetic, const QueryRows<Scalar>& rows, MutableMatrixView<Scalar>& out,
            float* log_sum_exp, Executor& executor) {
  // From about here on, dequantizing once for all rows is cheaper than folding for each.
  constexpr Index few = 8;
  using Decode = DecodeAttention<Scalar>;
  const bool fused = arithmetic == Arithmetic::fast && rope == nullptr &&
                     !std::is_same_v<Scalar, double> && rows.count() <= few &&
                     rows.count() * shape.heads_per_kv() <= Decode::Fused::max_rows;
  if (fused)
    Decode::run(layer, shape, rows, out, log_sum_exp, executor);
  else
    attend_exact(layer, shape, rope, rows, out, log_sum_exp, executor);
}

}  // namespace squat
