// Exact causal attention over a layer, a dequantized block at a time.
#pragma once

#include <squat/online_softmax.hpp>

namespace squat {

/// softmax(Q K^T * softmax_scale) V for the newest queries.rows() tokens of `layer`, in the cache's
/// compute type. Row i belongs to token size - rows + i and sees no later token and no padding; the
/// row of a padding token is zero. queries and out: [rows, query_heads * head_dim].
template <class Scalar, int KeyBits, int ValueBits>
void attend_exact(const LayerCache<Scalar, KeyBits, ValueBits>& layer, const ModelShape& shape,
                  const MatrixView<Scalar>& queries, MutableMatrixView<Scalar>& out) {
  using Real = ComputeType<Scalar>;
  constexpr Index query_tile = 64;
  const Index d = shape.head_dim, heads = shape.heads_per_kv();
  const Index first_position = layer.size() - queries.rows();
  const Real scale = static_cast<Real>(
      shape.softmax_scale > 0 ? shape.softmax_scale : 1 / std::sqrt(static_cast<double>(d)));

  OnlineSoftmax<Real> softmax;
  for (Index kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
    for (Index begin = 0; begin < queries.rows(); begin += query_tile) {
      const Index end = std::min(begin + query_tile, queries.rows());
      softmax.start((end - begin) * heads, d);
      Index row = 0;
      for (Index i = begin; i < end; ++i)
        for (Index g = 0; g < heads; ++g, ++row) {
          const Scalar* query = queries.row(i).data() + (kv_head * heads + g) * d;
          for (Index c = 0; c < d; ++c)
            softmax.queries()(row, c) = scale * static_cast<Real>(query[c]);
          softmax.positions()[static_cast<std::size_t>(row)] = first_position + i;
        }
      for_decoded_tokens(layer, kv_head, first_position + end,
                         [&](const DecodedTokens<Real>& tokens) { softmax.absorb(tokens); });
      row = 0;
      for (Index i = begin; i < end; ++i)
        for (Index g = 0; g < heads; ++g, ++row) {
          Scalar* result = out.row(i).data() + (kv_head * heads + g) * d;
          if (layer.is_valid(first_position + i))
            softmax.finish(row, result);
          else
            std::fill_n(result, d, Scalar(0));
        }
    }
  }
}

}  // namespace squat
