// New tokens on their way into a layer of a sequence, and out of its residual.
#pragma once

#include <squat/detail/encoding/key_encoder.hpp>
#include <squat/detail/encoding/value_encoder.hpp>
#include <squat/detail/layer/exact_keys.hpp>
#include <squat/detail/plan/key_fits.hpp>
#include <squat/detail/store/layer_store.hpp>

namespace squat::detail {

/// Writes to one layer of one sequence. append() and flush() either do all of their work or, when
/// memory runs out, none.
template <class Scalar>
class LayerWriter {
 public:
  using Real = ComputeType<Scalar>;

  /// All outlive the writer.
  LayerWriter(LayerStore<Scalar>& store, KeyFits<Scalar>& fits, Index layer, Index sequence)
      : store_(store), fits_(fits), layer_(layer), sequence_(sequence) {}

  /// Appends tokens in full precision, behind what an earlier call left complete, which is packed
  /// first. Matrices as SQuatCache::update() takes them; `queries` is null where there are none.
  void append(const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values,
              const MatrixView<Scalar>* queries, const CallOptions& options) {
    auto transaction = fits_.begin(layer_, sequence_, tokens(), queries, options);
    store_.reserve(keys.rows());
    pack();
    store_.settle();
    store_.append(keys, values, options.mask);
    store_.shrink();
    fits_.commit(layer_, sequence_, tokens(), std::move(transaction));
  }

  /// Packs what the residual no longer has to hold: keys as their layout says, and the values but
  /// for the newest residual_length. Then drops what the layer's window has left behind.
  void flush() {
    pack();
    store_.settle();
    store_.shrink();
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  void pack() {
    const Index keys = store_.leaving_keys(), values = store_.leaving_values();
    typename FullPrecisionTokens<Scalar>::Guard outliers(store_.full_precision());
    const std::vector<RecordTops> each = tops_of_tokens(keys);
    keep_outliers(keys, each);
    const std::vector<RecordTops> tops = this->tops(keys, each);
    const auto plan = fits_.plan(
        layer_, sequence_, keys > 0, tops,
        [&](std::vector<KeyStatistics>& statistics) { describe(keys, statistics); },
        [&] { return value_means(keys); });
    TokenBlocks& blocks = store_.blocks();
    if (keys + values > 0) blocks.own(store_.value_block());
    const KeyLayouts layouts = keys > 0 ? this->layouts(*plan, keys, tops) : nullptr;
    TokenBlocks::Guard guard(blocks);
    if (keys > 0) pack_keys(keys, *plan, layouts);
    if (values > 0) pack_values(values);
    guard.keep();
    outliers.keep();
    store_.take(keys, values);
    store_.drop_invisible();
  }

  typename KeyFits<Scalar>::Tokens tokens() const {
    return {store_.size(), store_.full_precision_to_come(), store_.has_valid(), store_.may_grow(),
            store_.leaving_keys() > 0};
  }

  /// [count, kv_heads], of the oldest `count` residual keys and their values.
  std::vector<RecordTops> tops_of_tokens(Index count) const {
    const Index kv_heads = store_.format().kv_heads();
    std::vector<RecordTops> tops;
    tops.reserve(at(count * kv_heads));
    for (Index token = 0; token < count; ++token)
      for (Index head = 0; head < kv_heads; ++head) tops.push_back(store_.tops(token, head));
    return tops;
  }

  /// Where any tokens stay in full precision, keeps so, of the oldest `count` residual keys, those
  /// that ExactKeys chooses.
  void keep_outliers(Index count, const std::vector<RecordTops>& each) {
    const LayerSettings& settings = store_.format().settings;
    const Index tokens = settings.block_tokens;
    if (settings.has_token_scales || settings.full_precision_tokens == 0) return;
    const ExactKeys<Scalar> exact(store_, each);
    std::vector<Index> outliers;
    for (Index first = 0; first < count; first += tokens) {
      const std::vector<Index> of_block = exact.of_block(first, tokens);
      outliers.insert(outliers.end(), of_block.begin(), of_block.end());
    }
    if (!outliers.empty()) store_.keep_outliers(outliers);
  }

  /// Of the oldest `count` residual keys that shape ranges, and of their values, an entry a kv
  /// head.
  std::vector<RecordTops> tops(Index count, const std::vector<RecordTops>& each) const {
    const Index kv_heads = store_.format().kv_heads();
    std::vector<RecordTops> tops(at(count > 0 ? kv_heads : 0));
    std::vector<std::uint8_t> counts(at(count));
    if (count > 0) store_.mark(0, count, counts.data());
    for (Index token = 0; token < count; ++token)
      for (Index head = 0; counts[at(token)] != 0 && head < kv_heads; ++head) {
        const RecordTops& one = each[at(token * kv_heads + head)];
        RecordTops& all = tops[at(head)];
        all = {std::max(all.keys, one.keys), std::max(all.values, one.values)};
      }
    return tops;
  }

  /// The layouts of the oldest `count` residual keys that, with their values, are as large as
  /// `tops`. Where they come one by one they join the last block while its units hold them.
  KeyLayouts layouts(const KeyPlan<Real>& plan, Index count, const std::vector<RecordTops>& tops) {
    if (!store_.format().settings.has_token_scales) return plan.layouts;
    TokenBlocks& blocks = store_.blocks();
    const Rotation rotation = plan.layouts->front().rotation();
    const KeyLayouts blank = in_rotation(store_.format().blank_key_layouts, rotation);
    if (blocks.empty()) {
      const std::vector<RecordUnits> zeros(tops.size(), {RecordUnits::none, RecordUnits::none});
      return with_value_means(in_units(blank, raised(zeros, tops)), value_means(count));
    }
    const std::vector<RecordUnits> before = units_of(blocks.back().key_layouts);
    const std::vector<RecordUnits> now = raised(before, tops);
    KeyLayouts last = blocks.back().key_layouts;
    const bool goes_on = blocks.back().rotation() == rotation;
    if (goes_on && now == before) return last;
    KeyLayouts layouts =
        in_units(have_value_means(last) ? in_rotation(last, rotation) : blank, now);
    if (goes_on &&
        std::equal(now.begin(), now.end(), before.begin(),
                   [](const auto& one, const auto& other) { return one.reads_like(other); }))
      blocks.back().key_layouts = layouts;
    return layouts;
  }

  /// Of the values of the oldest `count` residual keys that shape ranges, an entry a kv head, or
  /// none but for grids around zero. It is empty where it has less energy than what differs from
  /// it: then some values, maybe those attended to most, are nearer to zero.
  std::vector<std::vector<float>> value_means(Index count) const {
    const LayerFormat& format = store_.format();
    if (!format.stores_values() || format.settings.value_fit != ScaleFit::symmetric) return {};
    const Index width = format.value_dim();
    std::vector<std::uint8_t> counts(at(count));
    store_.mark(0, count, counts.data());
    std::vector<double> sums(at(format.value_width())), squares = sums;
    Matrix<Scalar> value(1, format.value_width());
    double n = 0;
    for (Index token = 0; token < count; ++token) {
      if (counts[at(token)] == 0) continue;
      store_.read_value_of_key(token, value.data());
      for (Index c = 0; c < value.cols(); ++c) {
        const double x = static_cast<double>(value(0, c));
        sums[at(c)] += x;
        squares[at(c)] += rounded(x * x);
      }
      n += 1;
    }
    std::vector<std::vector<float>> means;
    for (Index head = 0; head < format.kv_heads(); ++head) {
      std::vector<float> mean;
      double own = 0, all = 0;
      for (Index c = head * width; c < (head + 1) * width; ++c) {
        const double one = sums[at(c)] / std::max(n, 1.0);
        mean.push_back(static_cast<float>(one));
        own += rounded(one * one);
        all += squares[at(c)];
      }
      const double spread = all / std::max(n, 1.0) - own;
      const bool is_chance = !(rounded(own * (n - 1)) > rounded(spread * (n + 1)));
      means.push_back(is_chance ? std::vector<float>() : std::move(mean));
    }
    return means;
  }

  /// Adds the oldest `count` residual keys to `statistics`, an entry a kv head, where they are
  /// packed in whole blocks.
  void describe(Index count, std::vector<KeyStatistics>& statistics) const {
    const LayerFormat& format = store_.format();
    if (format.settings.has_token_scales) return;
    const Index tokens = format.settings.block_tokens;
    Matrix<Scalar> keys(tokens, format.head_dim());
    for (Index first = 0; first < count; first += tokens) {
      std::uint8_t counts[TokenBlock::max_tokens];
      store_.mark(first, tokens, counts);
      for (Index head = 0; head < format.kv_heads(); ++head) {
        store_.read_keys(first, head, keys);
        statistics[at(head)].add(keys, Mask(counts, tokens));
      }
    }
  }

  /// Quantizes the oldest `count` residual keys into new blocks or, if they come one by one, first
  /// into what is left of the last one. They count once LayerStore::take() says so.
  void pack_keys(Index count, const KeyPlan<Real>& plan, const KeyLayouts& layouts) {
    using Encoder = KeyEncoder<Scalar>;
    const LayerFormat& format = store_.format();
    TokenBlocks& blocks = store_.blocks();
    const Index block_tokens = format.settings.block_tokens;
    std::vector<ErrorFeedback<Real>> room;
    const std::vector<ErrorFeedback<Real>>& feedback = plan.expanded(room);
    for (Index first = 0; first < count;) {
      const bool fills = store_.may_grow(first) && blocks.back().key_layouts == layouts;
      const Index slot = fills ? Index{blocks.back().tokens} : Index{0};
      const Index tokens = std::min(
          Encoder(format.blank_key_layout(), format.settings).tokens_at_once(slot), count - first);
      const Index block = blocks.size() - fills;
      std::uint8_t counts[Encoder::max_blocks * TokenBlock::max_tokens];
      for (Index done = 0; done < tokens; done += block_tokens) {
        if (!fills) {
          TokenBlock& added = blocks.add((count - first - done + block_tokens - 1) / block_tokens);
          added.key_layouts = layouts;
          added.position = store_.position(first + done);
        }
        store_.receive(blocks.back(), first + done, std::min(block_tokens, tokens - done),
                       counts + done);
      }
      Matrix<Scalar> keys(tokens, format.head_dim());
      for (Index head = 0; head < format.kv_heads(); ++head) {
        store_.read_keys(first, head, keys);
        std::byte* records[Encoder::max_blocks];
        for (Index i = block; i < blocks.size(); ++i) records[i - block] = blocks[i].keys(head);
        Encoder((*layouts)[at(head)], format.settings)
            .encode(keys, feedback[at(head)], {records, blocks.size() - block},
                    Mask(counts, tokens), slot);
      }
      first += tokens;
    }
  }

  /// Quantizes the oldest `count` residual values into free slots. They count once
  /// LayerStore::take() says so. There are blocks for them all: no value leaves its residual before
  /// its key does.
  void pack_values(Index count) {
    const LayerFormat& format = store_.format();
    if (!format.stores_values()) return;
    const ValueEncoder<Scalar> encoder(format.value_layout, format.settings);
    Matrix<Scalar> value(1, format.value_width());
    for (Index done = 0, b = store_.value_block(); done < count; ++b) {
      TokenBlock& block = store_.blocks()[b];
      const Index here = std::min(block.waiting_values(), count - done);
      for (Index token = 0; token < here; ++token) {
        const Index slot = block.value_tokens + token;
        if (block.has_full_precision && store_.is_in_full_precision(block.position + slot))
          continue;
        store_.read_value(done + token, value.data());
        encoder.encode(value.data(), format.kv_heads(), slot, [&](Index head) {
          return ValueRecord{block.values(head), block.key_layout(head).units().values,
                             block.value_mean(head), block.rotation()};
        });
      }
      done += here;
    }
  }

  LayerStore<Scalar>& store_;
  KeyFits<Scalar>& fits_;
  Index layer_;
  Index sequence_;
};

}  // namespace squat::detail
