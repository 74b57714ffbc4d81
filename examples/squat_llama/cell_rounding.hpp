// What codecs other than llama.cpp's leave of keys and values in its cells.
#pragma once

#include <ggml.h>

#include <squat/model_shape.hpp>
#include <vector>

#include "oscar_bases.hpp"
#include "oscar_codec.hpp"
#include "session.hpp"
#include "turbo_codec.hpp"

namespace squat_llama {

/// Rounds numbers in cells of single precision.
class CellRounding {
 public:
  virtual ~CellRounding() = default;

  /// Called for each layer's keys and values once a batch was written to its cells, and before
  /// attention reads them. `written` is llama.cpp's GGML_OP_SET_ROWS: its data are all cells
  /// [channels, cells], those of one text after those of another; src[1] says which are new.
  virtual void round(const ggml_tensor& written) = 0;

  /// What a cache of this kind holds when `written` of `reserved` numbers are in use.
  virtual CacheBytes bytes(double written, double reserved) const = 0;
};

/// All tokens in TurboCodec.
class TurboRounding : public CellRounding {
 public:
  /// Fails on heads of several widths.
  TurboRounding(const squat::ModelShape& shape, int bits);
  void round(const ggml_tensor& written) override;
  CacheBytes bytes(double written, double reserved) const override;

 private:
  TurboCodec codec_;
};

/// OSCAR: tokens that are neither among the first 64 of a text nor among the newest 256 in
/// OscarCodec, the others in half precision. Tokens of a batch see each other, and the newest ones
/// before it, whole.
class OscarRounding : public CellRounding {
 public:
  /// `texts` is how many share the cells. Fails on windows, whose cells are not in order.
  OscarRounding(const squat::ModelShape& shape, std::vector<OscarBases> bases, int texts);
  void round(const ggml_tensor& written) override;
  /// Without the bases, which belong to the model.
  CacheBytes bytes(double written, double reserved) const override;

 private:
  void round(std::size_t layer, bool is_key, float* cell) const;

  squat::ModelShape shape_;
  std::vector<OscarBases> bases_;
  std::int64_t texts_;
  /// How many cells of each text are done, windows at the beginning included; keys of a layer, then
  /// its values.
  std::vector<std::vector<std::int64_t>> done_;
};

}  // namespace squat_llama
