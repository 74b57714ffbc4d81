// One layer of one sequence: packed blocks, then a residual in full precision.
#pragma once

#include <squat/block_rows.hpp>
#include <squat/exact_tokens.hpp>
#include <squat/key_plan.hpp>
#include <squat/options.hpp>
#include <squat/token_buffer.hpp>
#include <squat/token_range.hpp>
#include <squat/value_quantizer.hpp>

namespace squat {

/// The tokens of one layer and sequence, oldest first. Keys [first(), quantized_keys()) and values
/// [first(), quantized_values()) are packed in rows(); the newer ones are in residuals. There are
/// never more packed values than packed keys. The first Config::exact_tokens valid tokens are kept
/// in full precision too, in place of what their slots hold.
///
/// In a layer with a window flush() drops whole rows, all but the newest window + residual_length
/// tokens: so many that truncate() can take back residual_length tokens and the next query still
/// finds all that it sees. Exact tokens stay.
///
/// append() and flush() either do all of their work or, when memory runs out, none.
template <class Scalar>
class LayerCache {
 public:
  using Real = ComputeType<Scalar>;

  /// `config` is the layer's own, no bits in it are 0. All key records have the size of
  /// `key_block`'s.
  LayerCache(const ModelShape& shape, Index layer, const Config& config, const KeyBlock& key_block)
      : window_(shape.window(layer)),
        kv_heads_(shape.kv_heads),
        head_dim_(shape.head_dim),
        config_(config),
        is_per_token_(config.key_scales == KeyScales::per_token),
        values_quantizer_(shape.head_dim, config.value_bits, config),
        rows_(kv_heads_, key_block, values_quantizer_.block()),
        keys_(kv_heads_ * head_dim_),
        values_(kv_heads_ * head_dim_),
        valid_(1),
        exact_(kv_heads_ * head_dim_) {}

  /// A copy shares what is packed; what either does later never shows on the other.
  LayerCache(const LayerCache&) = default;
  LayerCache(LayerCache&&) noexcept = default;
  LayerCache& operator=(LayerCache&&) noexcept = default;

  /// What a layer holds. All else that it knows of its tokens follows from this.
  struct Contents {
    Contents(Index kv_heads, Index head_dim, const KeyBlock& key_block,
             const ValueBlock& value_block)
        : rows(kv_heads, key_block, value_block),
          keys(kv_heads * head_dim),
          values(kv_heads * head_dim),
          exact(kv_heads * head_dim) {}

    Index dropped = 0, dropped_valid = 0;
    BlockRows rows;
    TokenBuffer<Scalar> keys, values;  // residual
    TokenBuffer<std::uint8_t> valid{1};
    ExactTokens<Scalar> exact;
  };

  /// Takes the contents that a file had, in place of those of an empty layer.
  void restore(Contents contents) noexcept {
    first_ = quantized_keys_ = quantized_values_ = contents.dropped;
    dropped_valid_ = contents.dropped_valid;
    rows_ = std::move(contents.rows);
    keys_ = std::move(contents.keys);
    values_ = std::move(contents.values);
    valid_ = std::move(contents.valid);
    exact_ = std::move(contents.exact);
    for (Index r = 0; r < rows_.size(); ++r) {
      BlockRow& row = rows_[r];
      for (Index i = 0; i < exact_.size(); ++i) {
        const Index token = exact_.position(i) - quantized_keys_;
        row.has_exact |= token >= 0 && token < row.tokens;
      }
      for (Index token = 0; token < row.tokens; ++token) valid_tokens_ += row.is_valid(token);
      quantized_keys_ += row.tokens;
      quantized_values_ += row.value_tokens;
      value_row_ += row.value_tokens == row.tokens && !may_grow(row);
    }
    for (Index token = 0; token < valid_.size(); ++token) valid_tokens_ += *valid_.row(token);
  }

  Index size() const { return quantized_keys_ + keys_.size(); }
  /// Tokens before it are dropped, but for exact ones.
  Index first() const { return first_; }
  bool has_window() const { return window_ > 0; }
  /// What a query at `position` sees, exact tokens before it aside.
  TokenRange seen(Index position) const {
    return {has_window() ? std::max(position - window_ + 1, Index{0}) : 0, position + 1};
  }
  /// The smallest size, beside 0, at which the newest token still finds all that it sees.
  Index least_size() const { return first_ == 0 ? 0 : first_ + window_; }
  Index quantized_keys() const { return quantized_keys_; }
  Index quantized_values() const { return quantized_values_; }
  /// Tokens that are not padding among those dropped.
  Index dropped_valid() const { return dropped_valid_; }
  bool has_valid() const { return valid_tokens_ + dropped_valid_ > 0; }
  /// Whether the keys that leave the residual next join others in a row.
  bool fills_row() const { return !rows_.empty() && may_grow(rows_.back()); }

  const ValueBlock& value_block() const { return values_quantizer_.block(); }
  const std::vector<BlockRow>& rows() const { return rows_.all(); }
  /// Residual key of `token` [kv_heads * head_dim]; token >= quantized_keys(). Padding is zero.
  const Scalar* key(Index token) const { return keys_.row(token - quantized_keys_); }
  /// Residual value of `token` [kv_heads * head_dim]; token >= quantized_values().
  const Scalar* value(Index token) const { return values_.row(token - quantized_values_); }
  const ExactTokens<Scalar>& exact() const { return exact_; }
  /// How many of the next valid tokens will be exact.
  Index exact_to_come() const { return config_.exact_tokens - exact_.size(); }
  /// Where reading from `token` on begins: with a row of rows() and its first token, or behind the
  /// rows with the token itself.
  struct Place {
    Index row;
    Index first;
  };
  Place place(Index token) const {
    Place place{0, first_};
    while (place.row < rows_.size() && place.first + rows_[place.row].tokens <= token)
      place.first += rows_[place.row++].tokens;
    if (place.row == rows_.size()) place.first = std::max(place.first, token);
    return place;
  }

  /// Whether `token` is there and not padding.
  bool is_valid(Index token) const {
    if (token < first_) return false;
    if (token >= quantized_keys_) return *valid_.row(token - quantized_keys_) != 0;
    Index row = rows_.size() - 1;
    Index first = quantized_keys_ - rows_[row].tokens;
    while (token < first) first -= rows_[--row].tokens;
    return rows_[row].is_valid(token - first);
  }

  /// Makes room for `count` tokens, after which append() of them cannot fail.
  void reserve(Index count) {
    keys_.reserve(count);
    values_.reserve(count);
    valid_.reserve(count);
    exact_.reserve(std::min(count, exact_to_come()));
  }

  /// Appends tokens in full precision; keys and values [tokens, kv_heads * head_dim].
  void append(const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values, const Mask& mask) {
    reserve(keys.rows());
    Scalar* key = keys_.append(keys.rows());
    Scalar* value = values_.append(keys.rows());
    std::uint8_t* valid = valid_.append(keys.rows());
    const Index width = kv_heads_ * head_dim_;
    for (Index token = 0; token < keys.rows(); ++token, key += width, value += width) {
      if (mask[token] && exact_to_come() > 0)
        exact_.append(size() - keys.rows() + token, keys.row(token).data(),
                      values.row(token).data());
      valid[token] = mask[token];
      valid_tokens_ += mask[token];
      // Padding may hold anything, so nothing of it is kept.
      if (mask[token]) {
        std::copy_n(keys.row(token).data(), width, key);
        std::copy_n(values.row(token).data(), width, value);
      } else {
        std::fill_n(key, width, Scalar(0));
        std::fill_n(value, width, Scalar(0));
      }
    }
  }

  /// Keys that a flush would pack.
  Index leaving_keys() const {
    return is_per_token_ ? std::max(keys_.size() - config_.residual_length, Index{0})
                         : keys_.size() / config_.residual_length * config_.residual_length;
  }

  /// Adds the keys that a flush would pack in blocks to `statistics`, an entry a kv head.
  void describe(std::vector<KeyStatistics>& statistics) const {
    const Index tokens = config_.token_group_size;
    for (Index first = 0; !is_per_token_ && first < leaving_keys(); first += tokens) {
      std::uint8_t counts[BlockRow::max_tokens];
      mark(first, tokens, counts);
      for (Index head = 0; head < kv_heads_; ++head)
        statistics[at(head)].add(residual_keys(first, tokens, head), Mask(counts, tokens));
    }
  }

  /// Packs what the residual no longer has to hold: the largest multiple of residual_length of the
  /// keys, and the values (and keys with scales per token) but for the newest residual_length.
  void flush(const KeyPlan<Scalar>& plan) {
    const Index leaving_keys = this->leaving_keys();
    const Index leaving_values = std::max(values_.size() - config_.residual_length, Index{0});
    if (leaving_keys + leaving_values > 0) rows_.own(value_row_);
    BlockRows::Guard guard(rows_);
    if (leaving_keys > 0) pack_keys(leaving_keys, plan);
    if (leaving_values > 0) pack_values(leaving_values);
    guard.keep();
    take_keys(leaving_keys);
    take_values(leaving_values);
    if (has_window()) drop_unseen();
  }

  /// Keeps the first `size` tokens: none, or least_size() and more. Codes that stay are not
  /// touched.
  void truncate(Index size) noexcept {
    while (quantized_keys_ > size && !rows_.empty()) {
      BlockRow& row = rows_.back();
      const Index kept = std::max(size - (quantized_keys_ - row.tokens), Index{0});
      for (Index token = kept; token < row.tokens; ++token) valid_tokens_ -= row.is_valid(token);
      quantized_keys_ -= row.tokens - kept;
      row.tokens = static_cast<std::int32_t>(kept);
      if (kept == 0) rows_.pop_back();
    }
    if (size == 0) first_ = dropped_valid_ = quantized_keys_ = 0;  // nothing is dropped of nothing
    const Index residual = size - quantized_keys_;
    for (Index token = residual; token < valid_.size(); ++token)
      valid_tokens_ -= *valid_.row(token);
    keys_.truncate(residual);
    valid_.truncate(residual);
    quantized_values_ = std::min(quantized_values_, size);
    values_.truncate(size - quantized_values_);
    if (!rows_.empty())
      rows_.back().value_tokens = std::min(rows_.back().value_tokens, rows_.back().tokens);
    value_row_ = std::min(value_row_, rows_.size());
    if (value_row_ > 0 && value_row_ == rows_.size() && may_grow(rows_.back())) --value_row_;
    exact_.truncate(exact_.before(size));
  }

  /// Bytes; `counted` says what other sequences share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage = rows_.memory(counted);
    usage.residual = keys_.bytes() + values_.bytes() + valid_.bytes() + exact_.bytes();
    usage.bookkeeping += Index{sizeof(*this)};
    return usage;
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  /// Whether the last row, which this is, takes more tokens.
  bool may_grow(const BlockRow& row) const {
    return is_per_token_ && row.tokens < config_.token_group_size;
  }

  /// Which of `tokens` residual keys from `first` on are valid and not exact; returns whether some
  /// are exact.
  bool mark(Index first, Index tokens, std::uint8_t* counts) const {
    std::copy_n(valid_.row(first), tokens, counts);
    bool has_exact = false;
    for (Index i = 0; i < exact_.size(); ++i) {
      const Index token = exact_.position(i) - quantized_keys_ - first;
      if (token < 0 || token >= tokens) continue;
      counts[token] = 0;
      has_exact = true;
    }
    return has_exact;
  }

  /// Residual keys of one head, `tokens` of them from `first` on.
  Eigen::Map<const Matrix<Scalar>, 0, Eigen::OuterStride<>> residual_keys(Index first, Index tokens,
                                                                          Index head) const {
    return {keys_.row(first) + head * head_dim_, tokens, head_dim_,
            Eigen::OuterStride<>(kv_heads_ * head_dim_)};
  }

  /// Quantizes the oldest `count` residual keys into new rows or, if they come one by one, first
  /// into what is left of the last one. They count once take_keys() says so.
  void pack_keys(Index count, const KeyPlan<Scalar>& plan) {
    using Quantizer = KeyQuantizer<Scalar>;
    const Index block = config_.token_group_size;
    for (Index first = 0; first < count;) {
      const bool fills = fills_row();
      const Index slot = fills ? Index{rows_.back().tokens} : Index{0};
      const Index tokens =
          std::min(is_per_token_ ? block - slot : Quantizer::max_blocks * block, count - first);
      const Index row = rows_.size() - fills;
      std::uint8_t counts[Quantizer::max_blocks * BlockRow::max_tokens];
      for (Index done = 0; done < tokens; done += block) {
        if (!fills) rows_.add((count - first - done + block - 1) / block).key_blocks = plan.blocks;
        receive(rows_.back(), first + done, std::min(block, tokens - done), counts + done);
      }
      for (Index head = 0; head < kv_heads_; ++head) {
        const Quantizer& quantizer = plan.quantizers[at(head)];
        const auto keys = residual_keys(first, tokens, head);
        const Mask mask(counts, tokens);
        if (is_per_token_) {
          quantizer.quantize(keys, plan.feedback[at(head)], rows_[row].keys(head), mask, slot);
          continue;
        }
        std::byte* records[Quantizer::max_blocks];
        for (Index i = row; i < rows_.size(); ++i) records[i - row] = rows_[i].keys(head);
        quantizer.quantize_blocks(keys, plan.feedback[at(head)], {records, rows_.size() - row},
                                  mask);
      }
      first += tokens;
    }
  }

  /// Tells `row` of the `tokens` residual keys from `first` on, and `counts` which of them shape
  /// ranges.
  void receive(BlockRow& row, Index first, Index tokens, std::uint8_t* counts) const {
    for (Index token = 0; token < tokens; ++token)
      row.set_valid(row.tokens + token, *valid_.row(first + token) != 0);
    row.has_exact |= mark(first, tokens, counts);
    row.tokens += static_cast<std::int32_t>(tokens);
  }

  void take_keys(Index count) noexcept {
    quantized_keys_ += count;
    keys_.pop_front(count);
    valid_.pop_front(count);
    keys_.shrink(config_.residual_length);
    valid_.shrink(config_.residual_length);
  }

  /// Quantizes the oldest `count` residual values into free slots. They count once take_values()
  /// says so. There are rows for them all: no value leaves its residual before its key does.
  void pack_values(Index count) {
    for (Index done = 0, r = value_row_; done < count; ++r) {
      BlockRow& row = rows_[r];
      const Index here = std::min(Index{row.tokens - row.value_tokens}, count - done);
      for (Index token = 0; token < here; ++token) {
        if (row.has_exact && exact_.contain(quantized_values_ + done + token)) continue;
        values_quantizer_.quantize_heads(values_.row(done + token), kv_heads_,
                                         row.value_tokens + token,
                                         [&](Index head) { return row.values(head); });
      }
      done += here;
    }
  }

  /// Drops the rows that no query to come can see, even after truncation by residual_length.
  void drop_unseen() noexcept {
    const Index kept = size() - window_ - config_.residual_length;
    Index rows = 0;
    for (; rows < rows_.size() && first_ + rows_[rows].tokens <= kept; ++rows) {
      const BlockRow& row = rows_[rows];
      for (Index token = 0; token < row.tokens; ++token) {
        valid_tokens_ -= row.is_valid(token);
        dropped_valid_ += row.is_valid(token);
      }
      first_ += row.tokens;
    }
    rows_.drop_front(rows);
    value_row_ = std::max(value_row_ - rows, Index{0});
  }

  void take_values(Index count) noexcept {
    for (Index left = count; left > 0;) {
      BlockRow& row = rows_[value_row_];
      const Index here = std::min(Index{row.tokens - row.value_tokens}, left);
      row.value_tokens += static_cast<std::int32_t>(here);
      left -= here;
      if (row.value_tokens == row.tokens && !may_grow(row)) ++value_row_;
    }
    quantized_values_ += count;
    values_.pop_front(count);
    values_.shrink(config_.residual_length);
  }

  Index window_;  // tokens that a query sees; 0: all
  Index kv_heads_;
  Index head_dim_;
  Config config_;
  bool is_per_token_;  // keys come one by one
  ValueQuantizer<Scalar> values_quantizer_;
  BlockRows rows_;
  Index first_ = 0;  // tokens before it are dropped
  Index quantized_keys_ = 0;
  Index quantized_values_ = 0;
  Index value_row_ = 0;     // the first row that still takes values
  Index valid_tokens_ = 0;  // of those held
  Index dropped_valid_ = 0;
  TokenBuffer<Scalar> keys_;
  TokenBuffer<Scalar> values_;
  TokenBuffer<std::uint8_t> valid_;
  ExactTokens<Scalar> exact_;
};

}  // namespace squat
