// The three kinds of tokens that a layer holds, as attention takes them.
#pragma once

#include <numeric>
#include <squat/detail/attention/key_scores.hpp>
#include <squat/detail/attention/packed_values.hpp>
#include <squat/detail/attention/partial_attention.hpp>
#include <squat/detail/attention/plain_rows.hpp>
#include <squat/detail/store/layer_view.hpp>

namespace squat::detail {

/// What sources compute with, and where they add values: `packed` [rows, stride] is rotated back
/// later where values are, `plain` is not.
template <class Scalar>
struct SourceScratch {
  using Scores = float[simd::max_block];  // of a row

  KeyScores keys;
  PackedValues values;
  PlainRows<Scalar> rows;
  float* packed = nullptr;
  float* plain = nullptr;
  Index stride = 0;
};

// A source has `count` tokens in `slots` scores, of which the last ones may be none:
//   score(scores)           writes the products of each row with every token
//   visible(sight)          the tokens of the source that a row sees
//   all_see_all()           whether all rows see all of them
//   position(t)             of a token in its sequence
//   has_padding, is_valid(t)
//   read_values()           what adding values can begin with before probabilities are known
//   add_values(scores, sums)  adds values by probability, whose sums are given; may spoil the
//   scores

/// A block of packed tokens. Values that are still in the residual, and full-precision tokens, are
/// taken from there.
template <class Scalar>
struct BlockSource {
  SourceScratch<Scalar>& scratch;
  const LayerView<Scalar>& layer;
  const HeadRows& head;
  const TokenBlock& block;
  const TokenBlock* next;        ///< the block that comes next, or null
  Index first = block.position;  ///< of the first slot
  Index count = block.tokens;
  Index slots = layer.format.settings.block_tokens;
  bool has_padding = block.has_padding;

  void score(float (*scores)[simd::max_block]) const {
    // Keys and values of a block lie apart, and memory would be waited for at the beginning of
    // each. Asking for both at once would hold up what is read meanwhile.
    if (block.value_tokens > 0) prefetch(block.values(head.head), layer.value_layout().bytes());
    scratch.keys.score(block.key_layout(head.head), block.keys(head.head), scores[0]);
    if (next != nullptr) prefetch(next->keys(head.head), next->key_layout(head.head).bytes());
    for_full_precision(block.tokens, [&](Index index, Index slot) {
      scratch.rows.gather(1, head.head, layer.format.head_dim(),
                          [&](Index) { return layer.full_precision_key(index); });
      scratch.rows.score(head.queries, head.rows, scores[0] + slot);
    });
  }

  TokenRange visible(const RowSight& sight) const { return sight.visible.among(first, count); }
  bool all_see_all() const {
    return first >= head.common.begin && first + count <= head.common.end;
  }
  Index position(Index slot) const { return first + slot; }
  bool is_valid(Index slot) const { return block.is_valid(slot); }

  void read_values() const {
    if (block.value_tokens > 0) scratch.values.read(layer.value_layout(), block.values(head.head));
  }

  /// `sums` are those of the rows of scores.
  void add_values(float (*scores)[simd::max_block], const float* sums) const {
    const Index packed = block.value_tokens;
    for_full_precision(count, [&](Index index, Index slot) {
      gather_values(1, [&](Index) { return layer.full_precision_value(index); });
      add_rows(scores, slot);
      for (Index i = 0; i < head.rows; ++i) scores[i][slot] = 0;  // for what the token's slot holds
    });
    for (Index begin = packed; begin < count; begin += PlainRows<Scalar>::chunk) {
      gather_values(std::min(PlainRows<Scalar>::chunk, count - begin),
                    [&](Index t) { return layer.waiting_value(block, begin + t); });
      add_rows(scores, begin);
    }
    if (packed == 0) return;
    if (packed < count)
      for (Index i = 0; i < head.rows; ++i) std::fill(scores[i] + packed, scores[i] + count, 0.0f);
    float packed_sums[KeyScores::max_rows];
    const float* const mean = block.value_mean(head.head);
    if (mean != nullptr && (packed < count || block.has_full_precision)) {
      for (Index i = 0; i < head.rows; ++i)
        packed_sums[i] = std::accumulate(scores[i], scores[i] + packed, 0.0f);
      sums = packed_sums;
    }
    scratch.values.turn_to(block.rotation(), layer.value_layout(), scratch.packed, scratch.plain,
                           scratch.stride);
    scratch.values.add_mean(layer.value_layout(), mean, sums, scratch.plain, scratch.stride);
    scratch.values.add(layer.value_layout(), block.values(head.head),
                       block.value_unit<float>(head.head), scores, head.rows, scratch.packed,
                       scratch.stride);
  }

 private:
  template <class Row>
  void gather_values(Index tokens, const Row& row) const {
    scratch.rows.gather(tokens, head.head, layer.format.value_dim(), row);
  }

  void add_rows(float (*scores)[simd::max_block], Index slot) const {
    scratch.rows.add(scores[0] + slot, head.rows, scratch.plain, scratch.stride);
  }

  /// Calls use(index, slot) for the full-precision tokens in slots before `end`.
  template <class Use>
  void for_full_precision(Index end, const Use& use) const {
    if (!block.has_full_precision) return;
    const Index last = layer.full_precision.before(block.position + end);
    for (Index i = layer.full_precision.before(block.first()); i < last; ++i)
      use(i, layer.full_precision.position(i) - block.position);
  }

  /// Asks for all cache lines of a record.
  static void prefetch([[maybe_unused]] const std::byte* record, [[maybe_unused]] Index bytes) {
#if defined(__GNUC__) || defined(__clang__)
    constexpr Index line = 64;
    for (; bytes >= 4 * line; bytes -= 4 * line, record += 4 * line) {
      __builtin_prefetch(record);
      __builtin_prefetch(record + line);
      __builtin_prefetch(record + 2 * line);
      __builtin_prefetch(record + 3 * line);
    }
    for (Index i = 0; i < bytes; i += line) __builtin_prefetch(record + i);
#endif
  }
};

/// Consecutive tokens of the residual, at most PlainRows::chunk.
template <class Scalar>
struct ResidualSource {
  SourceScratch<Scalar>& scratch;
  const LayerView<Scalar>& layer;
  const HeadRows& head;
  Index first;  ///< position of the first token
  Index count = std::min(PlainRows<Scalar>::chunk, layer.size() - first);
  Index slots = PlainRows<Scalar>::chunk;
  bool has_padding = true;

  void score(float (*scores)[simd::max_block]) const {
    gather(layer.format.head_dim(), [&](Index t) { return layer.key(first + t); });
    scratch.rows.score(head.queries, head.rows, scores[0]);
  }

  TokenRange visible(const RowSight& sight) const { return sight.visible.among(first, count); }
  bool all_see_all() const {
    return first >= head.common.begin && first + count <= head.common.end;
  }
  Index position(Index slot) const { return first + slot; }
  bool is_valid(Index slot) const { return layer.is_valid(first + slot); }

  void read_values() const {}

  void add_values(float (*scores)[simd::max_block], const float*) const {
    gather(layer.format.value_dim(), [&](Index t) { return layer.value(first + t); });
    scratch.rows.add(scores[0], head.rows, scratch.plain, scratch.stride);
  }

 private:
  template <class Row>
  void gather(Index width, const Row& row) const {
    scratch.rows.gather(count, head.head, width, row);
  }
};

/// Full-precision tokens that some row sees beyond its window, at most PlainRows::chunk: attention
/// sinks. A row sees those of them that it does not see where they stand.
template <class Scalar>
struct SinkSource {
  SourceScratch<Scalar>& scratch;
  const LayerView<Scalar>& layer;
  const HeadRows& head;
  Index first;  ///< of the full-precision tokens
  Index end;    ///< behind the last one
  Index count = std::min(PlainRows<Scalar>::chunk, end - first);
  Index slots = PlainRows<Scalar>::chunk;
  bool has_padding = false;

  void score(float (*scores)[simd::max_block]) const {
    gather(layer.format.head_dim(), [&](Index t) { return layer.full_precision_key(first + t); });
    scratch.rows.score(head.queries, head.rows, scores[0]);
  }

  TokenRange visible(const RowSight& sight) const {
    return {0, std::clamp(sight.sinks - first, Index{0}, count)};
  }
  bool all_see_all() const { return false; }
  Index position(Index slot) const { return layer.full_precision.position(first + slot); }
  bool is_valid(Index) const { return true; }

  void read_values() const {}

  void add_values(float (*scores)[simd::max_block], const float*) const {
    gather(layer.format.value_dim(),
           [&](Index t) { return layer.full_precision_value(first + t); });
    scratch.rows.add(scores[0], head.rows, scratch.plain, scratch.stride);
  }

 private:
  template <class Row>
  void gather(Index width, const Row& row) const {
    scratch.rows.gather(count, head.head, width, row);
  }
};

}  // namespace squat::detail
