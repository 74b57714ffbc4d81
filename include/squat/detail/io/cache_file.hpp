// All that a cache holds, to a file and back.
#pragma once

#include <squat/detail/io/snapshot_reader.hpp>
#include <squat/detail/plan/key_fits.hpp>

namespace squat::detail {

/// What a file holds of a cache.
template <class Scalar>
struct CacheContents {
  std::vector<LayerStore<Scalar>> layers;                 // [layers, sequences]
  typename KeyFits<Scalar>::OwnFits fits;                 // [layers, sequences]
  std::vector<typename KeyFits<Scalar>::Fit> calibrated;  // per layer, or empty
};

/// Writes `count` of the sequences of `layers` [layers, sequences] from `first` on. No bits in
/// `config` are 0.
template <class Scalar>
void write_cache(std::ostream& out, const ModelShape& shape, const Config& config,
                 const std::vector<LayerStore<Scalar>>& layers, const KeyFits<Scalar>& fits,
                 Index first, Index count) {
  const Index sequences = static_cast<Index>(layers.size()) / shape.layers;
  SnapshotWriter<Scalar> file(out, shape, config, count, fits.is_calibrated());
  for (Index layer = 0; layer < shape.layers; ++layer) {
    file.begin_layer();
    const auto lock = fits.guard(layer);
    if (fits.is_calibrated()) file.fit(fits.calibrated(layer));
    for (Index sequence = first; sequence < first + count; ++sequence) {
      file.tokens(layers[static_cast<std::size_t>(layer * sequences + sequence)]);
      // A sequence alone takes along what it is quantized with, whosever it is.
      file.fit(count == 1 ? fits.effective_fit(layer, sequence) : fits.of(layer, sequence));
    }
  }
  file.finish();
}

/// Reads what write_cache() wrote of `sequences` sequences.
template <class Scalar>
CacheContents<Scalar> read_cache(std::istream& in, const ModelShape& shape, const Config& config,
                                 const LayerFormats& formats, Index sequences) {
  SnapshotReader<Scalar> file(in, shape, config, sequences);
  CacheContents<Scalar> contents;
  for (std::size_t layer = 0; layer < formats.size(); ++layer) {
    file.begin_layer(*formats[layer]);
    if (file.calibrated()) {
      auto fit = file.fit();
      require(fit != nullptr, "the file is calibrated but for layer ", layer);
      contents.calibrated.push_back(std::move(*fit));
    }
    for (Index sequence = 0; sequence < sequences; ++sequence) {
      contents.layers.emplace_back(formats[layer]);
      file.tokens(contents.layers.back());
      contents.fits.push_back(file.fit());
    }
  }
  file.finish();
  return contents;
}

}  // namespace squat::detail
