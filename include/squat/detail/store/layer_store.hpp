// The tokens of one layer of one sequence.
#pragma once

#include <squat/detail/store/layer_view.hpp>
#include <squat/detail/store/token_blocks.hpp>
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
  explicit LayerStore(std::shared_ptr<const LayerFormat> format)
      : format_(std::move(format)),
        blocks_(*format_),
        keys_(format_->key_width()),
        values_(format_->value_width()),
        valid_(1),
        full_precision_(*format_) {}

  /// A copy shares what is packed; what either does later never shows on the other.
  LayerStore(const LayerStore&) = default;
  LayerStore(LayerStore&&) noexcept = default;
  LayerStore& operator=(LayerStore&&) noexcept = default;

  /// What a layer holds. All else that it knows of its tokens follows from this.
  struct Contents {
    explicit Contents(const LayerFormat& format)
        : blocks(format),
          keys(format.key_width()),
          values(format.value_width()),
          full_precision(format) {}

    Index dropped = 0, dropped_valid = 0;
    TokenBlocks blocks;
    TokenBuffer<Scalar> keys, values;  // residual
    TokenBuffer<std::uint8_t> valid{1};
    FullPrecisionTokens<Scalar> full_precision;
  };

  /// Takes the contents that a file had, in place of those of an empty layer.
  void restore(Contents contents) noexcept {
    first_ = quantized_keys_ = quantized_values_ = contents.dropped;
    dropped_valid_ = contents.dropped_valid;
    blocks_ = std::move(contents.blocks);
    keys_ = std::move(contents.keys);
    values_ = std::move(contents.values);
    valid_ = std::move(contents.valid);
    full_precision_ = std::move(contents.full_precision);
    for (Index b = 0; b < blocks_.size(); ++b) {
      TokenBlock& block = blocks_[b];
      for (Index i = 0; i < full_precision_.size(); ++i) {
        const Index token = full_precision_.position(i) - quantized_keys_;
        block.has_full_precision |= token >= 0 && token < block.tokens;
      }
      for (Index token = 0; token < block.tokens; ++token) valid_tokens_ += block.is_valid(token);
      quantized_keys_ += block.tokens;
      quantized_values_ += block.value_tokens;
      value_block_ += block.value_tokens == block.tokens && !blocks_.may_grow(block);
    }
    for (Index token = 0; token < valid_.size(); ++token) valid_tokens_ += *valid_.row(token);
  }

  const LayerFormat& format() const { return *format_; }
  LayerView<Scalar> view() const {
    return {*format_,        blocks_.all(), keys_,           values_,          valid_,
            full_precision_, first_,        quantized_keys_, quantized_values_};
  }

  Index size() const { return quantized_keys_ + keys_.size(); }
  /// Tokens before it are dropped, but for full-precision ones.
  Index first() const { return first_; }
  /// The smallest size, beside 0, at which the newest token still finds all that it sees.
  Index least_size() const {
    if (first_ == 0) return 0;
    const LayerShape& shape = format_->shape;
    return shape.chunk > 0 ? round_up(first_, shape.chunk) + 1 : first_ + shape.window;
  }
  /// Tokens that are not padding among those dropped.
  Index dropped_valid() const { return dropped_valid_; }
  bool has_valid() const { return valid_tokens_ + dropped_valid_ > 0; }
  /// How many of the next valid tokens will stay in full precision.
  Index full_precision_to_come() const {
    return format_->settings.full_precision_tokens - full_precision_.size();
  }

  /// Makes room for `count` tokens, after which append() of them cannot fail.
  void reserve(Index count) {
    keys_.reserve(count);
    values_.reserve(count);
    valid_.reserve(count);
    full_precision_.reserve(std::min(count, full_precision_to_come()));
  }

  /// Appends tokens in full precision; keys and values [tokens, kv_heads * head_dim]. Needs
  /// reserve().
  void append(const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values,
              const Mask& mask) noexcept {
    Scalar* key = keys_.append(keys.rows());
    Scalar* value = values_.append(keys.rows());
    std::uint8_t* valid = valid_.append(keys.rows());
    const Index key_width = format_->key_width(), value_width = format_->value_width();
    for (Index token = 0; token < keys.rows(); ++token, key += key_width, value += value_width) {
      if (mask[token] && full_precision_to_come() > 0)
        full_precision_.append(size() - keys.rows() + token, keys.row(token).data(),
                               values.row(token).data());
      valid[token] = mask[token];
      valid_tokens_ += mask[token];
      // Padding may hold anything, so nothing of it is kept.
      if (mask[token]) {
        std::copy_n(keys.row(token).data(), key_width, key);
        std::copy_n(values.row(token).data(), value_width, value);
      } else {
        std::fill_n(key, key_width, Scalar(0));
        std::fill_n(value, value_width, Scalar(0));
      }
    }
  }

  // For whoever packs: oldest tokens of the residual turn into records of blocks.

  /// Keys of the residual that are to be packed now: the oldest so many.
  Index leaving_keys() const {
    return format_->blank_key_layout().leaving(keys_.size(), format_->settings.residual_length);
  }
  /// Values, all but the newest residual_length.
  Index leaving_values() const {
    return std::max(values_.size() - format_->settings.residual_length, Index{0});
  }

  /// Residual keys of one kv head, `tokens` of them from `first` on.
  Eigen::Map<const Matrix<Scalar>, 0, Eigen::OuterStride<>> residual_keys(Index first, Index tokens,
                                                                          Index head) const {
    return {keys_.row(first) + head * format_->head_dim(), tokens, format_->head_dim(),
            Eigen::OuterStride<>(format_->key_width())};
  }
  /// Residual value `i` of all kv heads.
  const Scalar* residual_value(Index i) const { return values_.row(i); }
  bool value_is_in_full_precision(Index i) const {
    return full_precision_.contain(quantized_values_ + i);
  }

  /// Which of `tokens` residual keys from `first` on are valid and not kept in full precision, into
  /// counts[tokens]; returns whether some are kept so.
  bool mark(Index first, Index tokens, std::uint8_t* counts) const {
    std::copy_n(valid_.row(first), tokens, counts);
    bool has_full_precision = false;
    for (Index i = 0; i < full_precision_.size(); ++i) {
      const Index token = full_precision_.position(i) - quantized_keys_ - first;
      if (token < 0 || token >= tokens) continue;
      counts[token] = 0;
      has_full_precision = true;
    }
    return has_full_precision;
  }

  TokenBlocks& blocks() { return blocks_; }
  const TokenBlocks& blocks() const { return blocks_; }
  /// The first block that still takes values.
  Index value_block() const { return value_block_; }

  /// Tells `block` of the `tokens` residual keys from `first` on, and `counts` which of them shape
  /// ranges.
  void receive(TokenBlock& block, Index first, Index tokens, std::uint8_t* counts) const {
    for (Index token = 0; token < tokens; ++token)
      block.set_valid(block.tokens + token, *valid_.row(first + token) != 0);
    block.has_full_precision |= mark(first, tokens, counts);
    block.tokens += static_cast<std::int32_t>(tokens);
  }

  /// From now on the oldest `keys` residual keys and `values` values count as packed, as they are
  /// in the records of blocks().
  void take(Index keys, Index values) noexcept {
    quantized_keys_ += keys;
    keys_.pop_front(keys);
    valid_.pop_front(keys);
    for (Index left = values; left > 0;) {
      TokenBlock& block = blocks_[value_block_];
      const Index here = std::min(Index{block.tokens - block.value_tokens}, left);
      block.value_tokens += static_cast<std::int32_t>(here);
      left -= here;
      if (block.value_tokens == block.tokens && !blocks_.may_grow(block)) ++value_block_;
    }
    quantized_values_ += values;
    values_.pop_front(values);
  }

  /// Gives back what a long prompt needed, and with it what reserve() made room for.
  void shrink() noexcept {
    const Index residual = format_->settings.residual_length;
    keys_.shrink(residual);
    valid_.shrink(residual);
    values_.shrink(residual);
  }

  /// Tokens from here on stay at the next flush.
  Index first_to_stay() const {
    if (!format_->forgets()) return 0;
    const LayerShape& shape = format_->shape;
    const Index newest = size() - format_->settings.residual_length;
    const Index first = shape.window > 0
                            ? newest - shape.window
                            : (std::max(newest, Index{1}) - 1) / shape.chunk * shape.chunk;
    return std::max(first, first_);
  }

  /// In a layer with a window or chunks: drops the blocks that no query to come can see, even after
  /// truncation by residual_length.
  void drop_invisible() noexcept {
    const Index kept = first_to_stay();
    Index blocks = 0;
    for (; blocks < blocks_.size() && first_ + blocks_[blocks].tokens <= kept; ++blocks) {
      const TokenBlock& block = blocks_[blocks];
      for (Index token = 0; token < block.tokens; ++token) {
        valid_tokens_ -= block.is_valid(token);
        dropped_valid_ += block.is_valid(token);
      }
      first_ += block.tokens;
    }
    blocks_.drop_front(blocks);
    value_block_ = std::max(value_block_ - blocks, Index{0});
  }

  /// Keeps the first `size` tokens: none, or least_size() and more. Codes that stay are not
  /// touched.
  void truncate(Index size) noexcept {
    while (quantized_keys_ > size && !blocks_.empty()) {
      TokenBlock& block = blocks_.back();
      const Index kept = std::max(size - (quantized_keys_ - block.tokens), Index{0});
      for (Index token = kept; token < block.tokens; ++token)
        valid_tokens_ -= block.is_valid(token);
      quantized_keys_ -= block.tokens - kept;
      block.tokens = static_cast<std::int32_t>(kept);
      if (kept == 0) blocks_.pop_back();
    }
    if (size == 0) first_ = dropped_valid_ = quantized_keys_ = 0;  // nothing is dropped of nothing
    const Index residual = size - quantized_keys_;
    for (Index token = residual; token < valid_.size(); ++token)
      valid_tokens_ -= *valid_.row(token);
    keys_.truncate(residual);
    valid_.truncate(residual);
    quantized_values_ = std::min(quantized_values_, size);
    values_.truncate(size - quantized_values_);
    if (!blocks_.empty())
      blocks_.back().value_tokens = std::min(blocks_.back().value_tokens, blocks_.back().tokens);
    value_block_ = std::min(value_block_, blocks_.size());
    if (value_block_ > 0 && value_block_ == blocks_.size() && blocks_.has_open_block())
      --value_block_;
    full_precision_.truncate(full_precision_.before(size));
  }

  /// Bytes; `counted` says what other sequences share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage = blocks_.memory(counted);
    usage.residual = keys_.bytes() + values_.bytes() + valid_.bytes() + full_precision_.bytes();
    usage.bookkeeping += Index{sizeof(*this)};
    if (counted.insert(format_.get()).second) usage.bookkeeping += format_->bytes();
    return usage;
  }

 private:
  std::shared_ptr<const LayerFormat> format_;
  TokenBlocks blocks_;
  Index first_ = 0;  // tokens before it are dropped
  Index quantized_keys_ = 0;
  Index quantized_values_ = 0;
  Index value_block_ = 0;   // the first block that still takes values
  Index valid_tokens_ = 0;  // of those held
  Index dropped_valid_ = 0;
  TokenBuffer<Scalar> keys_;  // residual
  TokenBuffer<Scalar> values_;
  TokenBuffer<std::uint8_t> valid_;
  FullPrecisionTokens<Scalar> full_precision_;
};

}  // namespace squat::detail
