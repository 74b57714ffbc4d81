// What the sequences of a layer have in common, whatever they hold.
#pragma once

#include <squat/detail/math/rotary.hpp>
#include <squat/detail/records/key_layouts.hpp>
#include <squat/detail/records/padded_shape.hpp>
#include <squat/detail/records/value_record_layout.hpp>

namespace squat::detail {

/// Shape, settings and layouts of a layer. Never changes, so that all its sequences share one.
struct LayerFormat {
  LayerShape shape;  ///< padded: what the caller's heads lack of multiples of 8 is there
  LayerSettings settings;
  std::shared_ptr<const RopeTable> rope;          ///< null where the caller applies positions
  std::shared_ptr<const RopeTable> applied_rope;  ///< by the caller; null where nothing turns
  /// Those of keys of which nothing is known. All key records of the layer have their size.
  KeyLayouts blank_key_layouts;
  ValueRecordLayout value_layout;

  /// No bits in `layer_settings` are 0.
  LayerFormat(const LayerShape& layer_shape, const LayerSettings& layer_settings)
      : shape(padded(layer_shape)),
        settings(for_padded(layer_settings, layer_shape.head_dim)),
        rope(table(shape, false)),
        applied_rope(table(shape, true)),
        blank_key_layouts(std::make_shared<const std::vector<KeyRecordLayout>>(
            static_cast<std::size_t>(shape.kv_heads),
            KeyRecordLayout(shape.head_dim, even_bits(shape.head_dim, settings.key_bits),
                            settings))),
        value_layout(shape.value_width(), settings.value_bits, settings) {
    // A block is dropped behind its window; what is seen beyond it stays.
    settings.full_precision_tokens = std::max(settings.full_precision_tokens, shape.sink_tokens);
  }

  Index head_dim() const { return shape.head_dim; }
  Index value_dim() const { return value_layout.head_dim(); }
  Index kv_heads() const { return shape.kv_heads; }
  Index key_width() const { return kv_heads() * head_dim(); }  ///< of the keys of a token
  /// Of the values of a token, where they are stored.
  Index value_width() const { return kv_heads() * shape.own_value_width(); }
  bool stores_values() const { return !shape.values_in_keys; }
  /// Whether old tokens go out of sight.
  bool forgets() const { return shape.window > 0 || shape.chunk > 0; }
  const KeyRecordLayout& blank_key_layout() const { return blank_key_layouts->front(); }
  Index bytes() const {
    return Index{sizeof(*this)} + kv_heads() * blank_key_layout().bookkeeping_bytes() +
           bytes(rope.get()) + bytes(applied_rope.get());
  }

 private:
  /// Settings that mean the same in padded heads as `own` do in those of the caller's `head_dim`.
  LayerSettings for_padded(const LayerSettings& own, Index head_dim) const {
    LayerSettings padded = own;
    if (padded.feedback_step >= head_dim) padded.feedback_step = shape.head_dim;
    // Energy counts per channel.
    if (padded.has_normalised_lambda)
      padded.lambda *= static_cast<double>(head_dim) / static_cast<double>(shape.head_dim);
    return padded;
  }
  static std::shared_ptr<const RopeTable> table(const LayerShape& shape, bool is_applied) {
    if (shape.rope.pairing == RopePairing::none || shape.rope.is_applied != is_applied)
      return nullptr;
    return std::make_shared<const RopeTable>(shape.rope, shape.head_dim);
  }
  static Index bytes(const RopeTable* table) {
    return table == nullptr ? 0 : Index{sizeof(RopeTable)} + table->bytes();
  }
};

/// Of each layer of a model; layers that are alike share one.
using LayerFormats = std::vector<std::shared_ptr<const LayerFormat>>;

/// No bits in `config` are 0.
inline LayerFormats layer_formats(const ModelShape& shape, const Config& config) {
  LayerFormats formats;
  for (Index layer = 0; layer < shape.layers; ++layer) {
    const LayerSettings settings(config, layer);
    std::size_t alike = 0;
    while (alike < formats.size() &&
           !(formats[alike]->settings.key_bits == settings.key_bits &&
             formats[alike]->settings.value_bits == settings.value_bits &&
             shape.layer(static_cast<Index>(alike)) == shape.layer(layer)))
      ++alike;
    formats.push_back(alike < formats.size()
                          ? formats[alike]
                          : std::make_shared<const LayerFormat>(shape.layer(layer), settings));
  }
  return formats;
}

}  // namespace squat::detail
