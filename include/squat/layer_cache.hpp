// One layer of one sequence: packed blocks, then a residual in full precision.
#pragma once

#include <squat/block_row.hpp>
#include <squat/key_quantizer.hpp>
#include <squat/memory.hpp>
#include <squat/options.hpp>
#include <squat/token_buffer.hpp>
#include <squat/value_quantizer.hpp>
#include <vector>

namespace squat {

/// The tokens of one layer and sequence, oldest first. Keys [0, quantized_keys()) and values
/// [0, quantized_values()) are packed in rows(); the newer ones are in residuals. There are never
/// more packed values than packed keys.
///
/// append() and flush() either do all of their work or, when memory runs out, none.
template <class Scalar, int KeyBits, int ValueBits>
class LayerCache {
 public:
  using Real = ComputeType<Scalar>;

  LayerCache(const ModelShape& shape, const Config& config)
      : kv_heads_(shape.kv_heads),
        head_dim_(shape.head_dim),
        config_(config),
        keys_(kv_heads_ * head_dim_),
        values_(kv_heads_ * head_dim_),
        valid_(1) {}

  Index size() const { return quantized_keys_ + keys_.size(); }
  Index quantized_keys() const { return quantized_keys_; }
  Index quantized_values() const { return quantized_values_; }
  bool has_valid() const { return valid_tokens_ > 0; }

  KeyBlock<KeyBits> key_block() const { return {head_dim_, config_}; }
  ValueBlock<ValueBits> value_block() const { return {head_dim_, config_}; }
  const std::vector<BlockRow>& rows() const { return rows_; }
  /// Residual key of `token` [kv_heads * head_dim]; token >= quantized_keys(). Padding is zero.
  const Scalar* key(Index token) const { return keys_.row(token - quantized_keys_); }
  /// Residual value of `token` [kv_heads * head_dim]; token >= quantized_values().
  const Scalar* value(Index token) const { return values_.row(token - quantized_values_); }
  /// Whether `token` is not padding.
  bool is_valid(Index token) const {
    if (token >= quantized_keys_) return *valid_.row(token - quantized_keys_) != 0;
    std::size_t row = rows_.size() - 1;
    Index first = quantized_keys_ - rows_[row].tokens;
    while (token < first) first -= rows_[--row].tokens;
    return rows_[row].is_valid(token - first);
  }

  /// Makes room for `count` tokens, after which append() of them cannot fail.
  void reserve(Index count) {
    keys_.reserve(count);
    values_.reserve(count);
    valid_.reserve(count);
  }

  /// Appends tokens in full precision; keys and values [tokens, kv_heads * head_dim].
  void append(const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values, const Mask& mask) {
    reserve(keys.rows());
    Scalar* key = keys_.append(keys.rows());
    Scalar* value = values_.append(keys.rows());
    std::uint8_t* valid = valid_.append(keys.rows());
    const Index width = kv_heads_ * head_dim_;
    for (Index token = 0; token < keys.rows(); ++token, key += width, value += width) {
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

  /// Packs what the residual no longer has to hold: the largest multiple of residual_length of the
  /// keys, and the values but for the newest residual_length. `feedback` has one entry a kv head.
  void flush(const std::vector<ErrorFeedback<Real>>& feedback) {
    const Index leaving_keys = keys_.size() / config_.residual_length * config_.residual_length;
    const Index leaving_values = std::max(values_.size() - config_.residual_length, Index{0});
    RowsGuard guard(rows_);
    if (leaving_keys > 0) pack_keys(leaving_keys, feedback);
    if (leaving_values > 0) pack_values(leaving_values);
    guard.keep();
    take_keys(leaving_keys);
    take_values(leaving_values);
  }

  /// Keeps the first `size` tokens. Codes that stay are not touched.
  void truncate(Index size) noexcept {
    for (; quantized_keys_ > size;) {
      BlockRow& row = rows_.back();
      const Index kept = std::max(size - (quantized_keys_ - row.tokens), Index{0});
      for (Index token = kept; token < row.tokens; ++token) valid_tokens_ -= row.is_valid(token);
      quantized_keys_ -= row.tokens - kept;
      row.tokens = kept;
      if (kept == 0) rows_.pop_back();
    }
    const Index residual = size - quantized_keys_;
    for (Index token = residual; token < valid_.size(); ++token)
      valid_tokens_ -= *valid_.row(token);
    keys_.truncate(residual);
    valid_.truncate(residual);
    quantized_values_ = std::min(quantized_values_, size);
    values_.truncate(size - quantized_values_);
    if (!rows_.empty())
      rows_.back().value_tokens = std::min(rows_.back().value_tokens, rows_.back().tokens);
    value_row_ = std::min(value_row_, static_cast<Index>(rows_.size()));
  }

  MemoryUsage memory() const {
    MemoryUsage usage;
    const KeyBlock<KeyBits> key_block = this->key_block();
    const ValueBlock<ValueBits> value_block = this->value_block();
    const Slab* counted = nullptr;
    for (const BlockRow& row : rows_) {
      if (row.slab.get() != counted) {
        counted = row.slab.get();
        usage.reserved += counted->bytes();
        usage.bookkeeping += Index{sizeof(Slab)};
      }
      // Values come one by one, so a part of their record may still wait.
      const Index waiting = row.tokens - row.value_tokens;
      const auto used = [&](Index bytes) {
        return bytes - bytes * waiting / config_.token_group_size;
      };
      const Index codes = kv_heads_ * (key_block.code_bytes() + used(value_block.code_bytes()));
      const Index records = kv_heads_ * (key_block.bytes() + used(value_block.bytes()));
      usage.codes += codes;
      usage.scales += records - codes;
      usage.reserved -= records;
    }
    usage.residual = keys_.bytes() + values_.bytes() + valid_.bytes();
    usage.bookkeeping +=
        Index{sizeof(*this)} + static_cast<Index>(rows_.capacity() * sizeof(BlockRow));
    return usage;
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  /// Drops rows added since it was made, unless told to keep them.
  class RowsGuard {
   public:
    explicit RowsGuard(std::vector<BlockRow>& rows) : rows_(rows), size_(rows.size()) {}
    ~RowsGuard() { rows_.resize(std::min(size_, rows_.size())); }
    RowsGuard(const RowsGuard&) = delete;
    RowsGuard& operator=(const RowsGuard&) = delete;
    void keep() { size_ = rows_.size(); }

   private:
    std::vector<BlockRow>& rows_;
    std::size_t size_;
  };

  /// An empty row behind the last one, in the last slab if it has room. Slabs grow with the cache,
  /// so that at most an eighth of them, and 32 rows, waits for tokens; `coming` rows are sure to.
  BlockRow next_row(Index coming) const {
    const KeyBlock<KeyBits> key_block = this->key_block();
    const ValueBlock<ValueBits> value_block = this->value_block();
    BlockRow row;
    if (!rows_.empty() && rows_.back().slot + 1 < rows_.back().slab->rows()) {
      row.slab = rows_.back().slab;
      row.slot = rows_.back().slot + 1;
    } else {
      const Index eighth = static_cast<Index>(rows_.size()) / 8;
      row.slab = std::make_shared<Slab>(std::clamp(std::max(eighth, coming), Index{1}, Index{32}),
                                        kv_heads_, key_block.bytes(), value_block.bytes());
    }
    // Slots for values to come count as zero until they do.
    for (Index head = 0; head < kv_heads_; ++head)
      std::fill_n(row.values(head), value_block.bytes(), std::byte{0});
    return row;
  }

  /// Quantizes the oldest `count` residual keys into new rows. They count once take_keys() says so.
  void pack_keys(Index count, const std::vector<ErrorFeedback<Real>>& feedback) {
    const KeyQuantizer<Scalar, KeyBits> quantizer(head_dim_, config_);
    const Index tokens = config_.token_group_size;
    for (Index first = 0; first < count; first += tokens) {
      BlockRow row = next_row((count - first) / tokens);
      row.tokens = tokens;
      const std::uint8_t* valid = valid_.row(first);
      for (Index token = 0; token < tokens; ++token)
        if (!valid[token]) row.set_padding(token);
      for (Index head = 0; head < kv_heads_; ++head) {
        const Eigen::Map<const Matrix<Scalar>, 0, Eigen::OuterStride<>> keys(
            keys_.row(first) + head * head_dim_, tokens, head_dim_,
            Eigen::OuterStride<>(kv_heads_ * head_dim_));
        quantizer.quantize(keys, feedback[at(head)], row.keys(head), Mask(valid, tokens));
      }
      rows_.push_back(std::move(row));
    }
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
    const ValueQuantizer<Scalar, ValueBits> quantizer(head_dim_, config_);
    for (Index done = 0, r = value_row_; done < count; ++r) {
      BlockRow& row = rows_[at(r)];
      const Index here = std::min(row.tokens - row.value_tokens, count - done);
      for (Index head = 0; head < kv_heads_; ++head)
        for (Index token = 0; token < here; ++token)
          quantizer.quantize(values_.row(done + token) + head * head_dim_, row.values(head),
                             row.value_tokens + token);
      done += here;
    }
  }

  void take_values(Index count) noexcept {
    for (Index left = count; left > 0;) {
      BlockRow& row = rows_[at(value_row_)];
      const Index here = std::min(row.tokens - row.value_tokens, left);
      row.value_tokens += here;
      left -= here;
      if (row.value_tokens == row.tokens) ++value_row_;
    }
    quantized_values_ += count;
    values_.pop_front(count);
    values_.shrink(config_.residual_length);
  }

  Index kv_heads_;
  Index head_dim_;
  Config config_;
  std::vector<BlockRow> rows_;
  Index quantized_keys_ = 0;
  Index quantized_values_ = 0;
  Index value_row_ = 0;  // the first row that still takes values
  Index valid_tokens_ = 0;
  TokenBuffer<Scalar> keys_;
  TokenBuffer<Scalar> values_;
  TokenBuffer<std::uint8_t> valid_;
};

}  // namespace squat
