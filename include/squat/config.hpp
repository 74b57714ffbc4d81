// How a cache quantizes.
#pragma once

#include <squat/model_shape.hpp>

namespace squat {

/// How scale and zero point of a group are found.
enum class Backend {
  quanto,  ///< asymmetric min-max: the range is [min, max] of the group
  hqq,  ///< min-max, then the zero point refined by half-quadratic splitting (Badri & Shaji 2023)
  /// A part of the range, with a scale and zero point such that errors have no bias (unbiased.hpp).
  unbiased,
};

/// Which keys share a scale and a zero point.
enum class KeyScales {
  per_channel,  ///< token_group_size keys in a channel, as published; keys are quantized in blocks
  /// key_group_size channels of a key, as values do; each key is quantized alone.
  per_token,
};

/// Which grid the codes of a value group stand on.
enum class ValueGrid {
  min_max,  ///< from the group's minimum to its maximum
  /// Around zero, without a zero point: codes are those nearest in angle, and the scale is such
  /// that the error has no part along the value, so that errors average out over tokens. Values
  /// that lie around their mean more than around zero are taken less it.
  symmetric,
};

/// How the query subspace is found.
enum class SubspaceMethod {
  eigen,  ///< all eigenvectors of the second moment, of which the leading ones are taken
  power,  ///< the leading ones alone, by block power iteration (leading_directions.hpp)
};

/// Which queries fit the metric where ModelShape::rope turns them.
enum class SubspaceQueries {
  after_rope,   ///< turned to their positions
  before_rope,  ///< as they come
};

/// How attention over packed codes computes, whatever the number of rows.
enum class Arithmetic {
  /// Integer products of codes and rounded operands, which lose about a tenth of what the codes
  /// lose. A cache of doubles computes as with `dequantized` all the same.
  fast,
  dequantized,  ///< codes are dequantized; products are those of the cache's compute type
};

/// Bits of the codes of one layer, as Config::key_bits and value_bits; 0: those.
struct LayerBits {
  double keys = 0;
  int values = 0;
};

/// How a cache quantizes. The defaults are the published cache (arXiv 2503.24358).
struct Config {
  Backend backend = Backend::quanto;
  /// Channels quantized between two feedback steps ("step"): 1 to head_dim; larger means head_dim.
  Index quant_group_size = 64;
  /// Newest tokens kept in full precision: a multiple of token_group_size, at least once that; with
  /// KeyScales::per_token any number, 0 too: then a flush leaves nothing in full precision.
  Index residual_length = 32;
  /// lambda of A = I + lambda * Qhat^T Qhat; 0 switches feedback off.
  double squat_lambda = 0.001;
  /// Rank r of the query subspace; more than head_dim means head_dim.
  Index subspace_dim = 10;
  /// One subspace a layer, fitted on the first sequence that is prompted, serves every sequence;
  /// otherwise each sequence fits its own.
  bool shared_svd = true;
  /// Tokens to a key scale (per_channel) and channels to a value scale: 32, 64 or 128. Records hold
  /// so many tokens.
  Index token_group_size = 32;
  /// Bits of a stored scale and of a stored zero point: 8 (see AffineTable), 16 (half precision) or
  /// 32 (single), in units that follow the keys and values of a head (RecordUnits).
  int scale_bits = 16;

  // Beyond the publication. See recommended().

  /// Squared singular values are divided by their mean over all channels, so that one lambda suits
  /// every head and every length of prompt.
  bool normalised_lambda = false;
  /// With per_channel: once residual_length keys are in full precision, the oldest token_group_size
  /// of them leave. Otherwise, as published, all of them do.
  bool rolling_residual = false;
  /// Bits of a key channel, 1 to 8; 0: KeyBits. With adaptive_bits a mean, which need not be whole.
  double key_bits = 0;
  /// Each key channel gets 1 to 8 bits of its own, chosen from the prompt by what an error in it
  /// costs. Channels take the same width eight at a time; where that cannot meet the mean, it is
  /// the nearest one below.
  bool adaptive_bits = false;
  /// What keys share a scale. With per_token the errors of a group are still handed on to the
  /// channels that follow, in the group and behind it. A group's range is that of its channels as
  /// corrected by all feedback steps before the one in which it begins; codes that later
  /// corrections move out of it are clamped, an error that is handed on like any other.
  KeyScales key_scales = KeyScales::per_channel;
  /// With per_token: channels to a key scale, 32, 64, 128, 256 or 512; 0: token_group_size.
  Index key_group_size = 0;
  /// With per_token: keys are quantized after a Hadamard rotation with random signs, under the
  /// metric in rotated coordinates; queries are rotated once a call.
  bool rotate_keys = false;
  /// Bits of a value code: 1, 2, 3, 4 or 8; 0: ValueBits.
  int value_bits = 0;
  /// Per layer: what it has in place of key_bits and value_bits, for example from divide_bits().
  /// Empty: all layers are alike.
  std::vector<LayerBits> layer_bits = {};
  /// Channels to a value scale: 32, 64, 128, 256 or 512; 0: token_group_size.
  Index value_group_size = 0;
  ValueGrid value_grid = ValueGrid::min_max;
  /// Values are quantized after a Hadamard rotation with random signs, which is undone once on the
  /// output.
  bool rotate_values = false;
  /// Bits of a number of tokens that are not packed: 8 or 16, as integers that share a scale of 16
  /// bits by 32, or 0: as Scalar has them. With 8 bits the tokens of a call have 16 until the next
  /// flush() or update(), and those that stay in full precision keep 16.
  int residual_bits = 0;
  /// The first so many valid tokens of a sequence stay in full precision for good, out of ranges
  /// and fit: models attend to them most. They are seen as any others are, so in a layer with a
  /// window only within it (but for LayerShape::sink_tokens). With any, and scales per channel, up
  /// to four outliers of a block of keys stay so, too: keys that are far larger than all others,
  /// and keys of less than half of the norm that others have, attention sinks inside the text.
  Index full_precision_tokens = 0;
  /// Queries of every update shape the metric of the keys that leave the residual next, older ones
  /// fading by this factor a token; 0: those of the prompt alone (see FitQueries). Each update
  /// makes a new plan, with FitQueries::accumulate too, and moments stay. With per_token a metric
  /// serves until token_group_size keys are complete.
  double query_decay = 0;
  /// Before RoPE is allowed where ModelShape::rope turns queries, and only there.
  SubspaceQueries subspace_queries = SubspaceQueries::after_rope;
  /// Power iteration takes less time than a decomposition where head_dim is 128 or more and
  /// subspace_dim small, and gives the same metric to about a thousandth.
  SubspaceMethod subspace_method = SubspaceMethod::eigen;

  Arithmetic arithmetic = Arithmetic::fast;

  /// The best setting that was found for at most `mean_bits` bits an element (1.75 to 8), the mean
  /// over keys and values of codes, scales, zeros and what blocks share, the latter for contexts
  /// from about a thousand tokens on. KeyBits and ValueBits do not enter.
  /// examples/squat_llama/STUDY.md tells how it was found.
  ///
  /// `context_tokens` is how many tokens a sequence has in the end, if that is known; 0: it is not.
  /// The bytes that recommended(mean_bits) takes for so many tokens, everything included, are then
  /// divided anew; layers without a window take no more (but for room reserved for tokens to come).
  /// From 8192 tokens on more of the newest ones stay out of the codes, a 64th of the context and
  /// at most 512, and the codes of the others have fewer bits in return. With fewer tokens the
  /// metric has rank 8 at most, so that its tables are small.
  static Config recommended(double mean_bits = 2.5, Index context_tokens = 0);

  /// What `layer` goes by, as if there were no other.
  Config of_layer(Index layer) const {
    Config config = *this;
    config.layer_bits.clear();
    if (layer_bits.empty()) return config;
    const LayerBits& own = layer_bits[static_cast<std::size_t>(layer)];
    if (own.keys != 0) config.key_bits = own.keys;
    if (own.values != 0) config.value_bits = own.values;
    return config;
  }
};

inline Config Config::recommended(double mean_bits, Index context_tokens) {
  require(detail::is_finite(mean_bits) && mean_bits >= 1.75 && mean_bits <= 8, "mean_bits is ",
          mean_bits, "; it must be 1.75 to 8");
  require(context_tokens >= 0, "context_tokens is ", context_tokens,
          "; it must be 0 (unknown) or more");
  constexpr double least_bits = 1.75;
  constexpr Index group = 64, long_context = 8192, most_residual = 512;
  Config config;
  config.backend = Backend::unbiased;
  // Few bits need more feedback, which takes more time, and memory that only long texts pay for.
  const bool has_more_feedback =
      mean_bits < 2.5 && (context_tokens == 0 || context_tokens >= long_context);
  config.quant_group_size = has_more_feedback ? 1 : 2;
  config.subspace_dim = has_more_feedback ? 16 : 8;
  config.token_group_size = config.residual_length = config.value_group_size = group;
  config.scale_bits = 8;
  config.normalised_lambda = true;
  config.squat_lambda = 3;
  config.adaptive_bits = true;
  config.value_grid = ValueGrid::symmetric;
  config.rotate_values = true;
  // 8 bits would cost a tenth of what wider codes lose.
  config.residual_bits = mean_bits < 3.5 ? 8 : 16;
  config.full_precision_tokens = 1;
  if (config.residual_bits == 8) {
    // Bits of the other tokens' codes, so that tokens of 8 bits and a scale for 32 cost nothing.
    const auto bits_beside = [&](Index residual) {
      const double tokens = static_cast<double>(context_tokens), newest_bits = 8.5;
      const double more = static_cast<double>(residual - group);
      return mean_bits - more * (newest_bits - mean_bits) / (tokens - 2 * group - more);
    };
    Index residual = group;
    while (2 * residual <= std::min(context_tokens / 64, most_residual) &&
           bits_beside(2 * residual) >= least_bits)
      residual *= 2;
    if (residual > group) {
      mean_bits = bits_beside(residual);
      config.residual_length = residual;
      config.rolling_residual = true;
    }
  }
  config.value_bits = mean_bits < 2.875 ? 2 : mean_bits < 4.25 ? 3 : mean_bits < 6.25 ? 4 : 8;
  // A scale and a midpoint for 64 keys, a scale for 64 channels of a value, and what blocks share.
  constexpr double overhead = 16.0 / 64 + 8.0 / 64 + 0.125;
  config.key_bits = std::min(2 * mean_bits - config.value_bits - overhead, 8.0);
  return config;
}

namespace detail {

/// Widths that KeyBits and ValueBits can be.
template <int Bits>
inline constexpr bool is_supported_bits = Bits == 2 || Bits == 3 || Bits == 4 || Bits == 8;

}  // namespace detail

}  // namespace squat
