// The tokens of one layer of one sequence.
#pragma once

#include <squat/detail/store/layer_view.hpp>
#include <squat/detail/store/token_blocks.hpp>
#include <squat/error.hpp>
#include <squat/options.hpp>

namespace squat::detail {

/// The tokens of one layer and sequence, oldest first, as LayerView shows them; nothing here
/// quantizes. There are never more packed values than packed keys. The first
/// Config::full_precision_tokens valid tokens are kept in full precision too, in place of what
/// their slots hold.
///
/// In a layer with a window or chunks drop_invisible() drops whole blocks, all but so many that
/// truncate() can take back residual_length tokens and the next query still finds all that it sees.
/// Full-precision tokens stay.
template <class Scalar>
class LayerStore {
 public:
  /// What a layer holds. All else that it knows of its tokens follows from this.
  struct Contents {
    explicit Contents(const LayerFormat& format)
        : blocks(format),
          keys(format.kv_heads(), format.head_dim(), format.settings.residual_bits),
          values(format.kv_heads(), format.shape.own_value_width(), format.settings.residual_bits),
          full_precision(format) {}

    Index size() const { return residual_begin + keys.size(); }
    /// Fails where there are so many more positions than tokens that reading back would take memory
    /// out of all proportion.
    void check_gaps() const {
      Index tokens = keys.size();
      for (const TokenBlock& block : blocks.all()) tokens += block.tokens - block.begin;
      const Index gaps = size() - dropped - tokens, most = (Index{1} << 20) + 1024 * tokens;
      require(gaps <= most, "there would be ", gaps, " positions without tokens; with ", tokens,
              " tokens there can be ", most);
    }

    Index dropped = 0;  ///< position before which all is dropped
    Index dropped_valid = 0;
    TokenBlocks blocks;
    Index residual_begin = 0;            ///< position of the first residual key
    TokenRows<Scalar> keys, values;      ///< residual; values that blocks lack come first
    TokenBuffer<std::uint8_t> valid{1};  ///< of residual keys; 0 for padding
    FullPrecisionTokens<Scalar> full_precision;
  };

  explicit LayerStore(std::shared_ptr<const LayerFormat> format)
      : format_(std::move(format)), held_(*format_) {}

  /// A copy shares what is packed; what either does later never shows on the other.
  LayerStore(const LayerStore&) = default;
  LayerStore(LayerStore&&) noexcept = default;
  LayerStore& operator=(LayerStore&&) noexcept = default;

  const Contents& contents() const { return held_; }
  /// Takes `contents` in place of what it holds.
  void restore(Contents contents) noexcept {
    held_ = std::move(contents);
    value_block_ = valid_tokens_ = 0;
    for (Index b = 0; b < held_.blocks.size(); ++b) {
      TokenBlock& block = held_.blocks[b];
      block.has_full_precision =
          held_.full_precision.before(block.first()) < held_.full_precision.before(block.end());
      for (Index token = 0; token < block.tokens; ++token) valid_tokens_ += block.is_valid(token);
    }
    for (Index token = 0; token < held_.valid.size(); ++token)
      valid_tokens_ += *held_.valid.row(token);
    find_value_block();
  }

  const LayerFormat& format() const { return *format_; }
  LayerView<Scalar> view() const {
    return {*format_,    held_.blocks.all(),   held_.keys,    held_.values,
            held_.valid, held_.full_precision, held_.dropped, held_.residual_begin};
  }

  Index size() const { return held_.size(); }
  /// Tokens before it are dropped, but for full-precision ones.
  Index first() const { return held_.dropped; }
  /// The smallest size, beside 0, at which the newest token still finds all that it sees.
  Index least_size() const {
    if (held_.dropped == 0) return 0;
    const LayerShape& shape = format_->shape;
    return shape.chunk > 0 ? round_up(held_.dropped, shape.chunk) + 1
                           : held_.dropped + shape.window;
  }
  /// Tokens that are not padding among those dropped.
  Index dropped_valid() const { return held_.dropped_valid; }
  bool has_valid() const { return valid_tokens_ + held_.dropped_valid > 0; }
  /// How many of the next valid tokens will stay in full precision.
  Index full_precision_to_come() const {
    return format_->settings.full_precision_tokens - held_.full_precision.taken;
  }

  /// Makes room for `count` tokens, after which append() of them cannot fail.
  void reserve(Index count) {
    held_.keys.reserve(count);
    held_.values.reserve(count);
    held_.valid.reserve(count);
    held_.full_precision.reserve(std::min(count, full_precision_to_come()));
  }

  /// Appends tokens in full precision; keys and values [tokens, kv_heads * head_dim]. Needs
  /// reserve().
  void append(const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values,
              const Mask& mask) noexcept {
    std::uint8_t* valid = held_.valid.append(keys.rows());
    for (Index token = 0; token < keys.rows(); ++token) {
      const Scalar *key = keys.row(token).data(), *value = values.row(token).data();
      if (mask[token] && full_precision_to_come() > 0)
        held_.full_precision.append(size(), key, value);
      valid[token] = mask[token];
      valid_tokens_ += mask[token];
      // Padding may hold anything, so nothing of it is kept.
      if (mask[token]) {
        held_.keys.append(key);
        held_.values.append(value);
      } else {
        held_.keys.append_zeros(1);
        held_.values.append_zeros(1);
      }
    }
  }

  // For whoever packs: oldest tokens of the residual turn into records of blocks.

  /// Keys of the residual that are to be packed now: the oldest so many.
  Index leaving_keys() const {
    const LayerSettings& settings = format_->settings;
    const Index over = held_.keys.size() - settings.residual_length, step = settings.leaving_keys;
    if (over < 0) return 0;
    return settings.has_token_scales ? over : over / step * step + step;
  }
  /// Values, all but the newest residual_length.
  Index leaving_values() const {
    return std::max(held_.values.size() - format_->settings.residual_length, Index{0});
  }

  /// Residual keys of one kv head, as many as `keys` [tokens, head_dim] has room for, from `first`
  /// on.
  void read_keys(Index first, Index head, Matrix<Scalar>& keys) const {
    for (Index token = 0; token < keys.rows(); ++token)
      held_.keys.read_settled(first + token, head, keys.row(token).data());
  }
  /// Residual value `i` of all kv heads.
  void read_value(Index i, Scalar* value) const { held_.values.read_settled(i, value); }
  /// The value beside residual key `i`, of all kv heads.
  void read_value_of_key(Index i, Scalar* value) const {
    read_value(held_.values.size() - held_.keys.size() + i, value);
  }
  /// The largest magnitudes of residual key `i` of a head and of the value beside it.
  RecordTops tops(Index i, Index head) const {
    return {held_.keys.largest(i, head),
            held_.values.largest(held_.values.size() - held_.keys.size() + i, head)};
  }
  bool is_in_full_precision(Index position) const { return held_.full_precision.contain(position); }
  /// Position of residual key `i`.
  Index position(Index i) const { return held_.residual_begin + i; }
  /// Whether residual key `i` joins others in the last block, once those before it are packed.
  bool may_grow(Index i = 0) const { return held_.blocks.may_grow(position(i)); }

  /// Which of `tokens` residual keys from `first` on are valid and not kept in full precision, into
  /// counts[tokens]; returns whether some are kept so.
  bool mark(Index first, Index tokens, std::uint8_t* counts) const {
    std::copy_n(held_.valid.row(first), tokens, counts);
    bool has_full_precision = false;
    const Index last = held_.full_precision.before(position(first + tokens));
    for (Index i = held_.full_precision.before(position(first)); i < last; ++i) {
      counts[held_.full_precision.position(i) - position(first)] = 0;
      has_full_precision = true;
    }
    return has_full_precision;
  }

  /// Keeps the residual keys `tokens`, which ascend, and their values in full precision, but for
  /// those that stand before another one that is kept so.
  void keep_outliers(const std::vector<Index>& tokens) {
    FullPrecisionTokens<Scalar>& kept = held_.full_precision;
    kept.reserve(static_cast<Index>(tokens.size()));
    Matrix<Scalar> key(1, format_->key_width()), value(1, format_->value_width());
    for (const Index token : tokens) {
      if (kept.before(position(token)) < kept.size()) continue;
      held_.keys.read_settled(token, key.data());
      if (format_->stores_values()) read_value_of_key(token, value.data());
      kept.append_outlier(position(token), key.data(), value.data());
    }
  }

  FullPrecisionTokens<Scalar>& full_precision() { return held_.full_precision; }
  TokenBlocks& blocks() { return held_.blocks; }
  const TokenBlocks& blocks() const { return held_.blocks; }
  /// The first block that still takes values.
  Index value_block() const { return value_block_; }

  /// Tells `block` of the `tokens` residual keys from `first` on, and `counts` which of them shape
  /// ranges.
  void receive(TokenBlock& block, Index first, Index tokens, std::uint8_t* counts) const {
    for (Index token = 0; token < tokens; ++token)
      block.set_valid(block.tokens + token, *held_.valid.row(first + token) != 0);
    block.has_full_precision |= mark(first, tokens, counts);
    block.tokens += static_cast<std::int32_t>(tokens);
  }

  /// From now on the oldest `keys` residual keys and `values` values count as packed, as they are
  /// in the records of blocks().
  void take(Index keys, Index values) noexcept {
    held_.residual_begin += keys;
    held_.keys.pop_front(keys);
    held_.valid.pop_front(keys);
    for (Index left = values; left > 0;) {
      TokenBlock& block = held_.blocks[value_block_];
      const Index here = std::min(block.waiting_values(), left);
      block.value_tokens += static_cast<std::int32_t>(here);
      left -= here;
      value_block_ += block.waiting_values() == 0;
    }
    held_.values.pop_front(values);
    find_value_block();
  }

  /// Rounds what stays in the residual to residual_bits.
  void settle() noexcept {
    if_memory_lasts([&] {
      held_.keys.settle();
      held_.values.settle();
    });
  }
  /// Gives back what a long prompt needed, and with it what reserve() made room for.
  void shrink() noexcept {
    held_.keys.shrink();
    held_.valid.shrink();
    held_.values.shrink();
  }

  /// Gives back what erased tokens took.
  void compact() noexcept {
    if_memory_lasts([&] { held_.blocks.compact(); });
  }

  /// Tokens from here on stay at the next flush.
  Index first_to_stay() const {
    if (!format_->forgets()) return 0;
    const LayerShape& shape = format_->shape;
    const Index newest = std::max(size() - format_->settings.residual_length, Index{0});
    const Index first = shape.window > 0
                            ? newest - shape.window
                            : (std::max(newest, Index{1}) - 1) / shape.chunk * shape.chunk;
    return std::max(first, held_.dropped);
  }

  /// In a layer with a window or chunks: drops the blocks that no query to come can see, even after
  /// truncation by residual_length.
  void drop_invisible() noexcept {
    const Index kept = first_to_stay();
    Index blocks = 0;
    for (; blocks < value_block_ && held_.blocks[blocks].end() <= kept; ++blocks) {
      const TokenBlock& block = held_.blocks[blocks];
      for (Index token = 0; token < block.tokens; ++token) {
        valid_tokens_ -= block.is_valid(token);
        held_.dropped_valid += block.is_valid(token);
      }
      held_.dropped = block.end();
    }
    held_.blocks.drop_front(blocks);
    held_.full_precision.drop_outliers(held_.dropped);
    value_block_ -= blocks;
  }

  /// Keeps the first `size` tokens: none, or least_size() and more. Codes that stay are not
  /// touched.
  void truncate(Index size) noexcept {
    TokenBlocks& blocks = held_.blocks;
    while (!blocks.empty() && blocks.back().end() > size) {
      TokenBlock& block = blocks.back();
      const auto kept =
          static_cast<std::int32_t>(std::max(size - block.position, Index{block.begin}));
      for (Index token = kept; token < block.tokens; ++token)
        valid_tokens_ -= block.is_valid(token);
      block.tokens = kept;
      block.value_tokens = std::min(block.value_tokens, kept);
      if (kept == block.begin) blocks.pop_back();
    }
    // Nothing is dropped of nothing.
    if (size == 0) held_.dropped = held_.dropped_valid = 0;
    held_.residual_begin = std::min(held_.residual_begin, size);
    const Index residual = size - held_.residual_begin;
    for (Index token = residual; token < held_.valid.size(); ++token)
      valid_tokens_ -= *held_.valid.row(token);
    held_.keys.truncate(residual);
    held_.valid.truncate(residual);
    value_block_ = std::min(value_block_, blocks.size());
    Index waiting = residual;
    for (Index b = value_block_; b < blocks.size(); ++b) waiting += blocks[b].waiting_values();
    held_.values.truncate(waiting);
    find_value_block();
    held_.full_precision.truncate(size);
    shrink();
  }

  /// Bytes; `counted` says what other sequences share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage = held_.blocks.memory(counted);
    usage.residual = held_.keys.bytes() + held_.values.bytes() + held_.valid.bytes() +
                     held_.full_precision.bytes();
    usage.bookkeeping += Index{sizeof(*this)};
    if (counted.insert(format_.get()).second) usage.bookkeeping += format_->bytes();
    return usage;
  }

 private:
  /// Does what saves memory alone: without the memory for it things stay as they are.
  template <class Work>
  static void if_memory_lasts(const Work& work) noexcept {
#if defined(__cpp_exceptions)
    try {
      work();
    } catch (const std::bad_alloc&) {
    }
#else
    work();
#endif
  }

  /// Passes over blocks that take no more values.
  void find_value_block() noexcept {
    while (value_block_ < held_.blocks.size() && held_.blocks[value_block_].waiting_values() == 0)
      ++value_block_;
    // Values of what comes one by one go where their keys do.
    if (value_block_ == held_.blocks.size() && may_grow()) --value_block_;
  }

  std::shared_ptr<const LayerFormat> format_;
  Contents held_;
  Index value_block_ = 0;   // the first block that still takes values
  Index valid_tokens_ = 0;  // of those held
};

}  // namespace squat::detail
