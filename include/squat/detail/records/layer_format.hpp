// What the sequences of a layer have in common, whatever they hold.
#pragma once

#include <map>
#include <squat/detail/records/key_record_layout.hpp>
#include <squat/detail/records/value_record_layout.hpp>
#include <tuple>

namespace squat::detail {

/// Shapes, settings and layouts of a layer. Never changes, so that all its sequences share one.
struct LayerFormat {
  Index kv_heads;
  Index head_dim;
  Index window;  ///< tokens that a query sees; 0: all
  LayerSettings settings;
  /// Those of keys of which nothing is known. All key records of the layer have their size.
  KeyLayouts blank_key_layouts;
  ValueRecordLayout value_layout;

  /// No bits in `settings` are 0.
  LayerFormat(const ModelShape& shape, Index layer, const LayerSettings& layer_settings)
      : kv_heads(shape.kv_heads),
        head_dim(shape.head_dim),
        window(shape.window(layer)),
        settings(layer_settings),
        blank_key_layouts(std::make_shared<const std::vector<KeyRecordLayout>>(
            static_cast<std::size_t>(kv_heads),
            KeyRecordLayout(head_dim, even_bits(head_dim, settings.key_bits), settings))),
        value_layout(head_dim, settings.value_bits, settings) {}

  Index width() const { return kv_heads * head_dim; }  ///< of the keys, or values, of a token
  const KeyRecordLayout& blank_key_layout() const { return blank_key_layouts->front(); }
  Index bytes() const {
    return Index{sizeof(*this)} + kv_heads * blank_key_layout().bookkeeping_bytes();
  }
};

/// Of each layer of a model; layers that are alike share one.
using LayerFormats = std::vector<std::shared_ptr<const LayerFormat>>;

/// No bits in `config` are 0.
inline LayerFormats layer_formats(const ModelShape& shape, const Config& config) {
  LayerFormats formats;
  std::map<std::tuple<double, int, Index>, std::shared_ptr<const LayerFormat>> known;
  for (Index layer = 0; layer < shape.layers; ++layer) {
    const LayerSettings settings(config, layer);
    auto& format = known[{settings.key_bits, settings.value_bits, shape.window(layer)}];
    if (!format) format = std::make_shared<const LayerFormat>(shape, layer, settings);
    formats.push_back(format);
  }
  return formats;
}

}  // namespace squat::detail
