#include "cell_rounding.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <squat/error.hpp>

namespace squat_llama {
namespace {

using squat::Index;

// Of OSCAR, as its authors serve it.
constexpr std::int64_t kFirstTokens = 64, kNewestTokens = 256;
constexpr double kKeysKept = 0.96, kValuesKept = 0.92;

TurboCodec turbo_codec(const squat::ModelShape& shape, int bits) {
  for (Index layer = 0; layer < shape.layers; ++layer) {
    const squat::LayerShape& one = shape.layer(layer);
    squat::require(one.head_dim == shape.head_dim && one.own_value_width() == shape.head_dim,
                   "turbo takes heads of one width; layer ", layer, " of the model has keys of ",
                   one.head_dim, " and values of ", one.own_value_width(), " channels, layer 0 ",
                   shape.head_dim);
  }
  return {static_cast<int>(shape.head_dim), bits};
}

float* cell_of(const ggml_tensor& written, std::int64_t cell) {
  return reinterpret_cast<float*>(static_cast<char*>(written.data) +
                                  static_cast<std::size_t>(cell) * written.nb[1]);
}

std::vector<std::int64_t> new_cells(const ggml_tensor& written) {
  const ggml_tensor& cells = *written.src[1];
  const auto* first = static_cast<const std::int64_t*>(cells.data);
  return {first, first + ggml_nelements(&cells)};
}

/// Rounds one head [dim] of a cell.
template <class Codec>
void round_head(const Codec& codec, const squat::Matrix<float>& rotation, float* channels) {
  std::vector<std::uint8_t> code(static_cast<std::size_t>(codec.row_bytes()));
  Eigen::Map<Eigen::RowVectorXf> head(channels, rotation.rows());
  Eigen::RowVectorXf rotated = head * rotation;
  codec.encode(rotated.data(), code.data());
  codec.decode(code.data(), rotated.data());
  head.noalias() = rotated * rotation.transpose();
}

}  // namespace

TurboRounding::TurboRounding(const squat::ModelShape& shape, int bits)
    : codec_(turbo_codec(shape, bits)) {}

void TurboRounding::round(const ggml_tensor& written) {
  const Index dim = codec_.rotation().rows();
  for (const std::int64_t cell : new_cells(written))
    for (std::int64_t channel = 0; channel < written.ne[0]; channel += dim)
      round_head(codec_, codec_.rotation(), cell_of(written, cell) + channel);
}

CacheBytes TurboRounding::bytes(double written, double reserved) const {
  const double of_element = codec_.row_bytes() / static_cast<double>(codec_.rotation().rows());
  CacheBytes bytes;
  bytes.elements = written;
  bytes.quantized = written * of_element;
  bytes.total = reserved * of_element + codec_.table_bytes();
  return bytes;
}

OscarRounding::OscarRounding(const squat::ModelShape& shape, std::vector<OscarBases> bases,
                             int texts)
    : shape_(shape), bases_(std::move(bases)), texts_(texts) {
  for (Index layer = 0; layer < shape.layers; ++layer)
    squat::require(shape.layer(layer).window == 0 && shape.layer(layer).chunk == 0,
                   "oscar takes layers that see all tokens; layer ", layer,
                   " of the model has a window");
  done_.assign(2 * bases_.size(),
               std::vector<std::int64_t>(static_cast<std::size_t>(texts), kFirstTokens));
}

void OscarRounding::round(const ggml_tensor& written) {
  // cache_k_l0, cache_v_l0, ...
  const char* name = written.view_src->name + std::strlen("cache_");
  const bool is_key = *name == 'k';
  const auto layer = static_cast<std::size_t>(std::atoi(name + std::strlen("k_l")));
  const std::int64_t cells = written.ne[1] / texts_;  // of a text, in the order of its tokens
  std::vector<std::int64_t> first_new(static_cast<std::size_t>(texts_), cells);
  for (const std::int64_t cell : new_cells(written)) {
    std::int64_t& first = first_new[static_cast<std::size_t>(cell / cells)];
    first = std::min(first, cell % cells);
  }
  std::vector<std::int64_t>& done = done_[2 * layer + (is_key ? 0 : 1)];
  for (std::size_t text = 0; text < first_new.size(); ++text) {
    if (first_new[text] == cells) continue;  // not in this batch
    // The first new token is one of the newest.
    for (; done[text] < first_new[text] + 1 - kNewestTokens; ++done[text])
      round(layer, is_key, cell_of(written, static_cast<std::int64_t>(text) * cells + done[text]));
  }
}

void OscarRounding::round(std::size_t layer, bool is_key, float* cell) const {
  const std::vector<squat::Matrix<float>>& rotations =
      is_key ? bases_[layer].keys : bases_[layer].values;
  const OscarCodec codec(static_cast<int>(rotations.front().rows()),
                         is_key ? kKeysKept : kValuesKept);
  for (const squat::Matrix<float>& rotation : rotations) {
    round_head(codec, rotation, cell);
    cell += rotation.rows();
  }
}

CacheBytes OscarRounding::bytes(double written, double reserved) const {
  CacheBytes bytes;
  for (std::size_t i = 0; i < done_.size(); ++i) {
    const OscarBases& bases = bases_[i / 2];
    double row_bytes = 0, width = 0, tokens = 0;
    for (const squat::Matrix<float>& rotation : i % 2 == 0 ? bases.keys : bases.values) {
      row_bytes += OscarCodec(static_cast<int>(rotation.rows()), 1).row_bytes();
      width += static_cast<double>(rotation.rows());
    }
    for (const std::int64_t done : done_[i]) tokens += static_cast<double>(done - kFirstTokens);
    bytes.quantized += tokens * row_bytes;
    bytes.elements += tokens * width;
  }
  // Room for tokens to come is room for codes.
  const double whole = written - bytes.elements;
  bytes.total = 2 * whole + bytes.quantized;
  if (bytes.elements > 0) bytes.total += (reserved - written) * bytes.quantized / bytes.elements;
  return bytes;
}

}  // namespace squat_llama
