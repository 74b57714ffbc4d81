// What a model looks like and how its cache quantizes.
#pragma once

#include <squat/error.hpp>
#include <squat/matrix.hpp>

namespace squat {

/// The attention of a transformer. Query head h reads kv head h / (query_heads / kv_heads).
struct ModelShape {
  Index layers = 0;
  Index query_heads = 0;
  Index kv_heads = 0;        ///< divides query_heads: equal (MHA), fewer (GQA) or one (MQA)
  Index head_dim = 0;        ///< a multiple of 8, at most 512
  double softmax_scale = 0;  ///< factor on query-key products; 0 stands for 1 / sqrt(head_dim)

  Index heads_per_kv() const { return query_heads / kv_heads; }
};

/// How scale and zero point of a group are found.
enum class Backend {
  quanto,  ///< asymmetric min-max: the range is [min, max] of the group
  hqq,  ///< min-max, then the zero point refined by half-quadratic splitting (Badri & Shaji 2023)
};

/// How attention over packed codes computes.
enum class Arithmetic {
  /// Integer products of codes and rounded operands, wide enough that what they lose is a tenth of
  /// what
  /// the codes lose. A cache of doubles computes exactly all the same.
  fast,
  exact,  ///< codes are dequantized; products are those of the cache's compute type
};

/// How a cache quantizes. The defaults are the published cache (arXiv 2503.24358).
struct Config {
  Backend backend = Backend::quanto;
  /// Channels quantized between two feedback steps ("step"): 1 to head_dim; larger means head_dim.
  Index quant_group_size = 64;
  /// Newest tokens kept in full precision: a multiple of token_group_size, at least once that.
  Index residual_length = 32;
  /// lambda of A = I + lambda * Qhat^T Qhat; 0 switches feedback off.
  double squat_lambda = 0.001;
  /// Rank r of the query subspace; more than head_dim means head_dim.
  Index subspace_dim = 10;
  /// One subspace a layer, fitted on the first sequence that is prompted, serves every sequence;
  /// otherwise each sequence fits its own.
  bool shared_svd = true;
  /// Tokens to a key scale and channels to a value scale: 32, 64 or 128.
  Index token_group_size = 32;
  /// Bits of a stored scale and of a stored zero point: 16 (half precision) or 32 (single).
  int scale_bits = 16;
  Arithmetic arithmetic = Arithmetic::fast;
};

inline void check(const ModelShape& shape) {
  require(shape.layers >= 1, "shape.layers is ", shape.layers, "; it must be at least 1");
  require(shape.kv_heads >= 1, "shape.kv_heads is ", shape.kv_heads, "; it must be at least 1");
  require(shape.query_heads >= 1 && shape.query_heads % shape.kv_heads == 0,
          "shape.query_heads is ", shape.query_heads, "; it must be a positive multiple of the ",
          shape.kv_heads, " kv heads");
  require(shape.head_dim >= 8 && shape.head_dim <= 512 && shape.head_dim % 8 == 0,
          "shape.head_dim is ", shape.head_dim, "; it must be a multiple of 8 from 8 to 512");
  require(std::isfinite(shape.softmax_scale) && shape.softmax_scale >= 0, "shape.softmax_scale is ",
          shape.softmax_scale, "; it must be positive, or 0 for 1 / sqrt(head_dim)");
}

inline void check(const Config& config) {
  require(config.backend == Backend::quanto || config.backend == Backend::hqq, "config.backend is ",
          static_cast<int>(config.backend), "; it must be quanto (0) or hqq (1)");
  require(config.quant_group_size >= 1, "config.quant_group_size is ", config.quant_group_size,
          "; it must be at least 1");
  require(config.token_group_size == 32 || config.token_group_size == 64 ||
              config.token_group_size == 128,
          "config.token_group_size is ", config.token_group_size, "; it must be 32, 64 or 128");
  require(config.residual_length >= config.token_group_size &&
              config.residual_length % config.token_group_size == 0,
          "config.residual_length is ", config.residual_length,
          "; it must be a positive multiple of token_group_size (", config.token_group_size, ")");
  require(std::isfinite(config.squat_lambda) && config.squat_lambda >= 0, "config.squat_lambda is ",
          config.squat_lambda, "; it must be finite and not negative");
  require(config.subspace_dim >= 1, "config.subspace_dim is ", config.subspace_dim,
          "; it must be at least 1");
  require(config.scale_bits == 16 || config.scale_bits == 32, "config.scale_bits is ",
          config.scale_bits, "; it must be 16 or 32");
  require(config.arithmetic == Arithmetic::fast || config.arithmetic == Arithmetic::exact,
          "config.arithmetic is ", static_cast<int>(config.arithmetic),
          "; it must be fast (0) or exact (1)");
}

}  // namespace squat
