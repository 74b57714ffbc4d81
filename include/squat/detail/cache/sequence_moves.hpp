// Tokens of one sequence taken out and moved, in all layers at once.
#pragma once

#include <squat/detail/store/token_moves.hpp>

namespace squat::detail {

/// What SQuatCache::erase() and shift() do to the layers of a sequence: all, or when they fail
/// nothing.
template <class Scalar>
class SequenceMoves {
 public:
  /// Of `layers` [layers, sequences]; all outlive it.
  SequenceMoves(const ModelShape& shape, const LayerFormats& formats,
                std::vector<LayerStore<Scalar>>& layers, Index sequences, Index sequence)
      : shape_(shape),
        formats_(formats),
        layers_(layers),
        sequences_(sequences),
        sequence_(sequence) {}

  /// Fails unless all layers have these positions.
  void check(const TokenRange& range) const {
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const Index size = tokens(layer).size();
      require(range.begin >= 0 && range.begin <= range.end && range.end <= size, "range is [",
              range.begin, ", ", range.end, "); layer ", layer, " of sequence ", sequence_,
              " has tokens [0, ", size, ")");
    }
  }

  /// `range` has been checked, and does not reach to the end.
  void erase(const TokenRange& range) {
    if (range.empty()) return;
    change([&](Index layer, LayerStore<Scalar>& changed) {
      TokenMoves<Scalar> moves(own(layer));
      moves.erase(range);
      changed.restore(moves.take());
    });
    for (Index layer = 0; layer < shape_.layers; ++layer) own(layer).compact();
  }

  /// `range` has been checked.
  void shift(const TokenRange& range, Index delta) {
    check_shift(range, delta);
    if (range.empty() || delta == 0) return;
    change([&](Index layer, LayerStore<Scalar>& changed) {
      TokenMoves<Scalar> moves(own(layer));
      if (shape_.layer(layer).kv_layer == -1) moves.shift(range, delta);
      changed.restore(moves.take());
      const Index size = changed.size(), least = changed.least_size();
      require(size == 0 || size >= least, "shift by ", delta, ": layer ", layer, " of sequence ",
              sequence_, " has dropped what its newest token would see: its size would be ", size,
              "; its window asks for ", least);
    });
  }

 private:
  LayerStore<Scalar>& own(Index layer) const {
    return layers_[static_cast<std::size_t>(layer * sequences_ + sequence_)];
  }
  /// Of the layer that `layer` reads.
  const LayerStore<Scalar>& tokens(Index layer) const {
    const Index read = shape_.layer(layer).kv_layer;
    return own(read == -1 ? layer : read);
  }

  void check_shift(const TokenRange& range, Index delta) const {
    require(delta >= -range.begin && delta <= max_position - range.end, "delta is ", delta,
            "; for tokens [", range.begin, ", ", range.end, ") it must be ", -range.begin, " to ",
            max_position - range.end);
    const TokenRange target = delta < 0 ? TokenRange{range.begin + delta, range.begin}
                                        : TokenRange{range.end, range.end + delta};
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      require(shape_.layer(layer).rope.is_known(),
              "shift: the shape does not say how keys of layer ", layer,
              " turn with their position: rope.is_applied must be true, or rope.pairing not none");
      const LayerView<Scalar> view = tokens(layer).view();
      const Index end = std::min(target.end, view.size());
      for (Index token = std::max(target.begin, view.first); token < end; ++token)
        require(!view.is_valid(token), "delta is ", delta, "; tokens [", range.begin, ", ",
                range.end, ") cannot move over token ", token, ", which must be erased first");
    }
  }

  /// Calls make(layer, changed) for every layer, with an empty store to fill, and puts these in
  /// place of what the sequence holds.
  template <class Make>
  void change(const Make& make) {
    std::vector<LayerStore<Scalar>> changed;
    for (Index layer = 0; layer < shape_.layers; ++layer)
      make(layer, changed.emplace_back(formats_[static_cast<std::size_t>(layer)]));
    for (Index layer = 0; layer < shape_.layers; ++layer)
      own(layer) = std::move(changed[static_cast<std::size_t>(layer)]);
  }

  const ModelShape& shape_;
  const LayerFormats& formats_;
  std::vector<LayerStore<Scalar>>& layers_;
  Index sequences_;
  Index sequence_;
};

}  // namespace squat::detail
