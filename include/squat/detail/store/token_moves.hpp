// Tokens taken out of the middle of a sequence, and tokens that move to other positions.
#pragma once

#include <squat/detail/store/layer_store.hpp>

namespace squat::detail {

/// Takes tokens out of a copy of what a layer holds, and moves tokens there. No code is touched: a
/// block of which a part moves becomes two, and says by how much its keys are to be turned.
/// What is in full precision turns at once.
template <class Scalar>
class TokenMoves {
 public:
  using Real = ComputeType<Scalar>;
  using Contents = typename LayerStore<Scalar>::Contents;

  explicit TokenMoves(const LayerStore<Scalar>& layer)
      : format_(layer.format()), held_(layer.contents()) {}

  /// Takes out the tokens at positions of `range`, none of which is the last one.
  void erase(const TokenRange& range) {
    if (range.empty()) return;
    remove_blocks(range);
    for (Index b = 0; b < held_.blocks.size(); ++b) {
      TokenBlock& block = held_.blocks[b];
      const TokenRange slots = range.among(block.position, block.tokens);
      for (Index slot = slots.begin; slot < slots.end; ++slot) block.set_valid(slot, false);
    }
    const Index waiting = held_.values.size() - held_.keys.size();
    const TokenRange rows = range.among(held_.residual_begin, held_.keys.size());
    for (Index row = rows.begin; row < rows.end; ++row) {
      *held_.valid.row(row) = 0;
      std::fill_n(held_.keys.row(row), held_.keys.width(), Scalar(0));
      std::fill_n(held_.values.row(waiting + row), held_.values.width(), Scalar(0));
    }
    held_.full_precision.erase(range);
  }

  /// Moves the tokens at positions of `range` by `delta`. Where they go there is no valid token.
  void shift(const TokenRange& range, Index delta) {
    const Index size = held_.size(), new_size = size + (range.end == size ? delta : 0);
    const TokenRange target = delta < 0 ? TokenRange{range.begin + delta, range.begin}
                                        : TokenRange{range.end, range.end + delta};
    cut(target);
    cut(range);
    remove_blocks(target);
    // What is dropped may be in the range, or on either side.
    Index& dropped = held_.dropped;
    if (dropped <= range.begin)
      dropped = std::min(dropped, range.begin + delta);
    else
      dropped = std::max(dropped > range.end ? dropped : 0, std::min(dropped, range.end) + delta);
    const RopeTable* const rope = format_.applied_rope.get();
    for (Index b = 0; b < held_.blocks.size(); ++b) {
      TokenBlock& block = held_.blocks[b];
      if (!is_within(block, range)) continue;
      block.position += delta;
      if (rope != nullptr) block.turn += delta;
    }
    if (range.end == size || std::max(range.end, target.end) > held_.residual_begin)
      shift_residual(range, delta, new_size);
    FullPrecisionTokens<Scalar>& full = held_.full_precision;
    for (Index i = full.before(range.begin), end = full.before(range.end); i < end; ++i) {
      *full.positions.row(i) += delta;
      turn(delta, full.keys.row(i));
    }
  }

  Contents take() {
    held_.check_gaps();
    return std::move(held_);
  }

 private:
  static bool is_within(const TokenBlock& block, const TokenRange& range) {
    return block.first() >= range.begin && block.end() <= range.end;
  }

  /// From now on a block is in `range`, or none of its tokens is.
  void cut(const TokenRange& range) {
    held_.blocks.split(range.begin);
    held_.blocks.split(range.end);
  }

  /// Removes the blocks that are in `range`, and their values that are not packed yet.
  void remove_blocks(const TokenRange& range) {
    Index waiting = 0;  // values of blocks before
    for (Index b = 0; b < held_.blocks.size();) {
      const Index here = held_.blocks[b].waiting_values();
      if (is_within(held_.blocks[b], range)) {
        held_.values.erase(waiting, waiting + here);
        held_.blocks.erase(b);
      } else {
        waiting += here;
        ++b;
      }
    }
  }

  /// Of the residual. It ends with the last token of the sequence, at `size` - 1.
  void shift_residual(const TokenRange& range, Index delta, Index size) {
    const auto moved = [&](Index row) {
      const Index position = held_.residual_begin + row;
      return position + (position >= range.begin && position < range.end ? delta : 0);
    };
    const Index rows = held_.keys.size(), waiting = held_.values.size() - rows;
    Index first = 0;  // valid row
    while (first < rows && *held_.valid.row(first) == 0) ++first;
    const Index begin = first < rows ? moved(first) : size, count = size - begin;
    TokenBuffer<Scalar> keys(held_.keys.width()), values(held_.values.width());
    TokenBuffer<std::uint8_t> valid(1);
    keys.reserve(count);
    values.reserve(waiting + count);
    valid.reserve(count);
    std::fill_n(keys.append(count), count * keys.width(), Scalar(0));
    std::fill_n(values.append(waiting + count), (waiting + count) * values.width(), Scalar(0));
    std::fill_n(valid.append(count), count, std::uint8_t{0});
    if (waiting > 0) std::copy(held_.values.row(0), held_.values.row(waiting), values.row(0));
    for (Index row = first; row < rows; ++row) {
      if (*held_.valid.row(row) == 0) continue;
      const Index to = moved(row) - begin;
      *valid.row(to) = 1;
      std::copy_n(held_.keys.row(row), keys.width(), keys.row(to));
      std::copy_n(held_.values.row(waiting + row), values.width(), values.row(waiting + to));
      if (begin + to != held_.residual_begin + row) turn(delta, keys.row(to));
    }
    held_.keys = std::move(keys);
    held_.values = std::move(values);
    held_.valid = std::move(valid);
    held_.residual_begin = begin;
  }

  /// Turns the key of all kv heads.
  void turn(Index delta, Scalar* key) const {
    if (format_.applied_rope == nullptr) return;
    const Index width = format_.key_width();
    Eigen::Map<Eigen::Matrix<Scalar, 1, Eigen::Dynamic>> row(key, width);
    Matrix<Real> turned = row.template cast<Real>();
    RopeWalk<Real>(*format_.applied_rope).rotate_all(delta, turned.data(), 1, width);
    row = turned.template cast<Scalar>();
  }

  const LayerFormat& format_;
  Contents held_;
};

}  // namespace squat::detail
