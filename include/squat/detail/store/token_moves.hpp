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
      held_.keys.clear(row);
      held_.values.clear(waiting + row);
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
      turn(delta, full.keys, i);
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
    TokenRows<Scalar> keys = held_.keys.like(), values = held_.values.like();
    TokenBuffer<std::uint8_t> valid(1);
    keys.reserve(count);
    values.reserve(waiting + count);
    valid.reserve(count);
    keys.append_zeros(count);
    values.append_zeros(waiting + count);
    const auto settle = [](TokenRows<Scalar>& from, TokenRows<Scalar>& to) {
      from.settle();
      if (from.settled() == from.size()) to.settle();  // otherwise some need 16 bits
    };
    settle(held_.keys, keys);
    settle(held_.values, values);
    std::fill_n(valid.append(count), count, std::uint8_t{0});
    for (Index row = 0; row < waiting; ++row) values.copy(row, held_.values, row);
    for (Index row = first; row < rows; ++row) {
      if (*held_.valid.row(row) == 0) continue;
      const Index to = moved(row) - begin;
      *valid.row(to) = 1;
      keys.copy(to, held_.keys, row);
      values.copy(waiting + to, held_.values, waiting + row);
      if (begin + to != held_.residual_begin + row) turn(delta, keys, to);
    }
    held_.keys = std::move(keys);
    held_.values = std::move(values);
    held_.valid = std::move(valid);
    held_.residual_begin = begin;
  }

  /// Turns key `row` of all kv heads.
  void turn(Index delta, TokenRows<Scalar>& keys, Index row) const {
    if (format_.applied_rope == nullptr) return;
    Matrix<Real> turned(1, format_.key_width());
    keys.read_settled(row, turned.data());
    RopeWalk<Real>(*format_.applied_rope).rotate_all(delta, turned.data(), 1, turned.cols());
    keys.write(row, Matrix<Scalar>(turned.template cast<Scalar>()).data());
  }

  const LayerFormat& format_;
  Contents held_;
};

}  // namespace squat::detail
