// Blocks of a layer read back in full, oldest first.
#pragma once

#include <squat/layer_cache.hpp>

namespace squat {

/// Consecutive tokens of one kv head, dequantized.
template <class Real>
struct DecodedTokens {
  DecodedTokens(Index capacity, Index head_dim)
      : keys(capacity, head_dim),
        values(capacity, head_dim),
        valid(static_cast<std::size_t>(capacity)) {}

  Index first = 0;
  Index count = 0;
  Matrix<Real> keys;                // [at least count, head_dim]
  Matrix<Real> values;              // [at least count, head_dim]
  std::vector<std::uint8_t> valid;  // 0 for padding
  bool has_padding = false;
};

/// Calls visit(DecodedTokens&), which may spoil them, for blocks of kv head `head` that hold tokens
/// of `range`.
template <class Scalar, class Visit>
void for_decoded_tokens(const LayerCache<Scalar>& layer, Index head, const TokenRange& range,
                        Visit&& visit) {
  using Real = ComputeType<Scalar>;
  const ValueBlock& value_block = layer.value_block();
  const Index head_dim = value_block.head_dim(), capacity = BlockRow::max_tokens;
  DecodedTokens<Real> tokens(capacity, head_dim);
  const auto from_residual = [&](const Scalar* row, Real* out) {
    for (Index c = 0; c < head_dim; ++c) out[c] = static_cast<Real>(row[head * head_dim + c]);
  };

  const ExactTokens<Scalar>& exact = layer.exact();
  const auto place = layer.place(range.begin);
  tokens.first = place.first;
  for (Index r = place.row; r < static_cast<Index>(layer.rows().size()); ++r) {
    if (tokens.first >= range.end) return;
    const BlockRow& row = layer.rows()[static_cast<std::size_t>(r)];
    tokens.count = row.tokens;
    row.key_block(head).decode(row.keys(head), row.tokens, tokens.keys.data());
    if (row.value_tokens > 0)
      value_block.decode(row.values(head), row.value_tokens, tokens.values.data());
    for (Index t = row.value_tokens; t < row.tokens; ++t)
      from_residual(layer.value(tokens.first + t), tokens.values.row(t).data());
    for (Index i = 0; row.has_exact && i < exact.size(); ++i) {
      const Index t = exact.position(i) - tokens.first;
      if (t < 0 || t >= row.tokens) continue;
      from_residual(exact.keys.row(i), tokens.keys.row(t).data());
      from_residual(exact.values.row(i), tokens.values.row(t).data());
    }
    tokens.has_padding = row.has_padding;
    for (Index t = 0; t < row.tokens; ++t)
      tokens.valid[static_cast<std::size_t>(t)] = row.is_valid(t);
    visit(tokens);
    tokens.first += row.tokens;
  }
  for (; tokens.first < std::min(range.end, layer.size()); tokens.first += tokens.count) {
    tokens.count = std::min(capacity, layer.size() - tokens.first);
    tokens.has_padding = false;
    for (Index t = 0; t < tokens.count; ++t) {
      from_residual(layer.key(tokens.first + t), tokens.keys.row(t).data());
      from_residual(layer.value(tokens.first + t), tokens.values.row(t).data());
      tokens.valid[static_cast<std::size_t>(t)] = layer.is_valid(tokens.first + t);
      tokens.has_padding |= !layer.is_valid(tokens.first + t);
    }
    visit(tokens);
  }
}

/// The same for the exact tokens before token `end`, in runs of consecutive ones.
template <class Scalar, class Visit>
void for_exact_tokens(const LayerCache<Scalar>& layer, Index head, Index end, Visit&& visit) {
  using Real = ComputeType<Scalar>;
  const ExactTokens<Scalar>& exact = layer.exact();
  const Index count = exact.before(end), head_dim = layer.value_block().head_dim();
  if (count == 0) return;
  DecodedTokens<Real> tokens(count, head_dim);
  std::fill(tokens.valid.begin(), tokens.valid.end(), std::uint8_t{1});
  for (Index i = 0; i < count; i += tokens.count) {
    tokens.first = exact.position(i);
    for (Index t = 0; t < count - i && exact.position(i + t) == tokens.first + t; ++t) {
      for (Index c = 0; c < head_dim; ++c) {
        tokens.keys(t, c) = static_cast<Real>(exact.keys.row(i + t)[head * head_dim + c]);
        tokens.values(t, c) = static_cast<Real>(exact.values.row(i + t)[head * head_dim + c]);
      }
      tokens.count = t + 1;
    }
    visit(tokens);
  }
}

}  // namespace squat
