// Tokens of a layer read back in full, oldest first.
#pragma once

#include <optional>
#include <squat/detail/store/layer_view.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// Consecutive tokens of one kv head, dequantized: memory for so many, and those that are there.
template <class Real>
struct DequantizedTokens {
  static constexpr Index capacity = TokenBlock::max_tokens;

  /// Allocates; the only call here that does.
  void reserve(const LayerFormat& format) {
    if (keys.cols() != format.head_dim()) keys.resize(capacity, format.head_dim());
    if (values.cols() != format.value_dim()) values.resize(capacity, format.value_dim());
  }

  Index first = 0;
  Index count = 0;
  Matrix<Real> keys;             // [capacity, head_dim]
  Matrix<Real> values;           // [capacity, value_dim]
  std::uint8_t valid[capacity];  // 0 for padding
  bool has_padding = false;
};

/// The numbers of `head` in a row, as many as `out` has columns, into its row `t`.
template <class Scalar, class Real>
void copy_row(const TokenRow<Scalar>& row, Index head, Matrix<Real>& out, Index t) {
  row.read(head, out.cols(), out.row(t).data());
}

/// Calls visit(tokens), which may spoil them, for runs of tokens of kv head `head` that together
/// hold those of `range`. `tokens` has been reserved.
template <class Scalar, class Visit>
void for_dequantized_tokens(const LayerView<Scalar>& layer, Index head, const TokenRange& range,
                            DequantizedTokens<ComputeType<Scalar>>& tokens, Visit&& visit) {
  using Real = ComputeType<Scalar>;
  const ValueRecordLayout& value_layout = layer.value_layout();
  const FullPrecisionTokens<Scalar>& full_precision = layer.full_precision;
  std::optional<RopeWalk<Real>> walk;
  for (Index b = layer.block_at(range.begin); b < static_cast<Index>(layer.blocks.size()); ++b) {
    const TokenBlock& block = layer.blocks[static_cast<std::size_t>(b)];
    if (block.first() >= range.end) return;
    block.key_layout(head).dequantize(block.keys(head), block.tokens, tokens.keys.data());
    if (block.turn != 0) {
      if (!walk) walk.emplace(*layer.format.applied_rope);
      walk->rotate_all(block.turn, tokens.keys.data(), block.tokens, tokens.keys.cols());
    }
    if (!layer.format.stores_values())
      tokens.values.topRows(block.tokens) =
          tokens.keys.topLeftCorner(block.tokens, layer.format.value_dim());
    else if (block.value_tokens > 0)
      value_layout.dequantize(block.values(head), block.value_tokens, tokens.values.data(),
                              block.value_unit<Real>(head), block.rotation());
    if (const float* mean = block.value_mean(head))
      for (Index t = 0; t < block.value_tokens; ++t)
        for (Index c = 0; c < tokens.values.cols(); ++c)
          tokens.values(t, c) += static_cast<Real>(mean[c]);
    for (Index t = block.value_tokens; t < block.tokens && layer.format.stores_values(); ++t)
      copy_row(layer.waiting_value(block, t), head, tokens.values, t);
    const Index last = block.has_full_precision ? full_precision.before(block.end()) : 0;
    for (Index i = full_precision.before(block.first()); i < last; ++i) {
      const Index t = full_precision.position(i) - block.position;
      copy_row(layer.full_precision_key(i), head, tokens.keys, t);
      copy_row(layer.full_precision_value(i), head, tokens.values, t);
    }
    tokens.first = block.first();
    tokens.count = block.tokens - block.begin;
    tokens.has_padding = block.has_padding;
    for (Index t = 0; t < tokens.count; ++t) tokens.valid[t] = block.is_valid(block.begin + t);
    for (Index t = 0; block.begin > 0 && t < tokens.count; ++t) {
      tokens.keys.row(t) = tokens.keys.row(block.begin + t);
      tokens.values.row(t) = tokens.values.row(block.begin + t);
    }
    visit(tokens);
  }
  for (tokens.first = std::max(range.begin, layer.residual_begin);
       tokens.first < std::min(range.end, layer.size()); tokens.first += tokens.count) {
    tokens.count = std::min(tokens.capacity, layer.size() - tokens.first);
    tokens.has_padding = false;
    for (Index t = 0; t < tokens.count; ++t) {
      copy_row(layer.key(tokens.first + t), head, tokens.keys, t);
      copy_row(layer.value(tokens.first + t), head, tokens.values, t);
      tokens.valid[t] = layer.is_valid(tokens.first + t);
      tokens.has_padding |= !tokens.valid[t];
    }
    visit(tokens);
  }
}

/// Calls visit(tokens) for the first `count` full-precision tokens of kv head `head`, in runs of
/// consecutive ones. `tokens` has been reserved.
template <class Scalar, class Visit>
void for_full_precision_tokens(const LayerView<Scalar>& layer, Index head, Index count,
                               DequantizedTokens<ComputeType<Scalar>>& tokens, Visit&& visit) {
  const FullPrecisionTokens<Scalar>& all = layer.full_precision;
  tokens.has_padding = false;
  std::fill_n(tokens.valid, tokens.capacity, std::uint8_t{1});
  for (Index i = 0; i < count; i += tokens.count) {
    tokens.first = all.position(i);
    const Index most = std::min(count - i, tokens.capacity);
    for (Index t = 0; t < most && all.position(i + t) == tokens.first + t; ++t) {
      copy_row(layer.full_precision_key(i + t), head, tokens.keys, t);
      copy_row(layer.full_precision_value(i + t), head, tokens.values, t);
      tokens.count = t + 1;
    }
    visit(tokens);
  }
}

/// Keys or values of all tokens of a layer [tokens, kv_heads * width of a head], as `what` says;
/// padding is zero.
template <class Scalar>
Matrix<Scalar> read_back(
    const LayerView<Scalar>& layer,
    Matrix<ComputeType<Scalar>> DequantizedTokens<ComputeType<Scalar>>::*what) {
  DequantizedTokens<ComputeType<Scalar>> memory;
  memory.reserve(layer.format);
  const Index d = (memory.*what).cols();
  // Where there is no token, zero.
  Matrix<Scalar> all =
      Matrix<Scalar>::Zero(layer.size() - layer.first, layer.format.kv_heads() * d);
  for (Index head = 0; head < layer.format.kv_heads(); ++head)
    for_dequantized_tokens(layer, head, {layer.first, layer.size()}, memory, [&](auto& run) {
      auto target = all.block(run.first - layer.first, head * d, run.count, d);
      target = (run.*what).topRows(run.count).template cast<Scalar>();
      for (Index t = 0; t < run.count; ++t)
        if (!run.valid[t]) target.row(t).setZero();
    });
  return all;
}

}  // namespace squat::detail
