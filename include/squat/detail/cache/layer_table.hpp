// The layers of all sequences of a cache.
#pragma once

#include <squat/detail/store/layer_store.hpp>
#include <vector>

namespace squat::detail {

/// Layers [layers, sequences] of a shape, each empty at first, by their numbers as a caller gives
/// them.
template <class Scalar>
class LayerTable {
 public:
  /// An entry of `formats` a layer.
  LayerTable(const ModelShape& shape, LayerFormats formats, Index sequences)
      : shape_(shape), formats_(std::move(formats)), sequences_(sequences) {
    clear();
  }

  const ModelShape& shape() const { return shape_; }
  Index sequences() const { return sequences_; }
  const LayerFormats& formats() const { return formats_; }
  const LayerFormat& format(Index layer) const {
    return *formats_[static_cast<std::size_t>(layer)];
  }

  std::vector<LayerStore<Scalar>>& all() { return all_; }
  const std::vector<LayerStore<Scalar>>& all() const { return all_; }
  /// Of the layer itself. Fails where there is no such layer or sequence.
  LayerStore<Scalar>& own(Index layer, Index sequence) { return all_[index(layer, sequence)]; }
  /// Of the layer that `layer` reads. Fails where there is no such layer or sequence.
  const LayerStore<Scalar>& read(Index layer, Index sequence) const {
    const std::size_t own = index(layer, sequence);
    const Index from = shape_.layer(layer).kv_layer;
    return all_[from == -1 ? own : index(from, sequence)];
  }

  /// Empties all of them, or fails and changes none.
  void clear() {
    std::vector<LayerStore<Scalar>> empty;
    empty.reserve(static_cast<std::size_t>(shape_.layers * sequences_));
    for (const auto& format : formats_)
      for (Index sequence = 0; sequence < sequences_; ++sequence) empty.emplace_back(format);
    all_ = std::move(empty);
  }

  /// Fails where the caller's argument `name` is no sequence.
  void check_sequence(const char* name, Index sequence) const {
    require(sequence >= 0 && sequence < sequences_, name, " is ", sequence,
            "; the cache has sequences 0 to ", sequences_ - 1);
  }

  /// Bytes; `counted` says what sequences share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage;
    for (const LayerStore<Scalar>& layer : all_) usage += layer.memory(counted);
    usage.bookkeeping +=
        static_cast<Index>((all_.capacity() - all_.size()) * sizeof(LayerStore<Scalar>) +
                           formats_.capacity() * sizeof(formats_[0]));
    return usage;
  }

 private:
  std::size_t index(Index layer, Index sequence) const {
    require(layer >= 0 && layer < shape_.layers, "layer is ", layer, "; the cache has layers 0 to ",
            shape_.layers - 1);
    check_sequence("options.sequence", sequence);
    return static_cast<std::size_t>(layer * sequences_ + sequence);
  }

  ModelShape shape_;
  LayerFormats formats_;  // per layer
  Index sequences_;
  std::vector<LayerStore<Scalar>> all_;  // [layers, sequences]
};

}  // namespace squat::detail
