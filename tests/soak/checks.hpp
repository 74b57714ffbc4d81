// A sequence of a cache against what it was given, and its attention against its contents.
#pragma once

#include <cmath>
#include <cstring>
#include <squat/squat.hpp>
#include <sstream>
#include <stdexcept>

#include "../dense_attention.hpp"
#include "history.hpp"

namespace squat::soak {

/// Throws the concatenation of `parts` unless `condition` holds.
template <class... Parts>
void expect(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

/// `what` of `tokens`: [tokens, width].
template <class Scalar>
Matrix<Scalar> rows_of(char what, Index layer, const std::vector<Token>& tokens, Index width) {
  Matrix<Scalar> rows(static_cast<Index>(tokens.size()), width);
  for (Index i = 0; i < rows.rows(); ++i)
    tokens[static_cast<std::size_t>(i)].fill(what, layer, width, rows.row(i).data());
  return rows;
}

/// Compares, and keeps the worst that it found.
template <class Scalar>
class Checker {
 public:
  /// Sequence `sequence` of `cache` is what `history` tells, and attention to it is right.
  template <class Cache>
  void check(const Cache& cache, Index sequence, History& history) {
    CallOptions options;
    options.sequence = sequence;
    const ModelShape& shape = cache.shape();
    const Index width = shape.kv_heads * shape.head_dim;
    for (Index layer = 0; layer < layers; ++layer) {
      expect(cache.size(layer, options) == history.size(), "layer ", layer, " has ",
             cache.size(layer, options), " tokens, not ", history.size());
      const Matrix<Scalar> keys = cache.keys(layer, options), values = cache.values(layer, options);
      const auto given_keys = rows_of<Scalar>('k', layer, history.tokens(), width);
      const auto given_values = rows_of<Scalar>('v', layer, history.tokens(), width);
      // Half a step of 127 in each of 32 numbers, whose scale is up to a part of 128 too large,
      // beside one number that has them all.
      const double rounding = cache.config().residual_bits == 0 ? 0 : std::sqrt(32.0) * 0.51 / 127;
      check_rows('k', layer, history, keys, given_keys, rounding);
      check_rows('v', layer, history, values, given_values, rounding);
      if (history.size() == 0) continue;

      const std::vector<std::uint8_t> valid = history.valid();
      const Index rows = std::min<Index>(history.size(), 1 + checks_ % 3);
      const Matrix<Scalar> queries =
          rows_of<Scalar>('a', layer, {history.tokens().end() - rows, history.tokens().end()},
                          shape.query_heads * shape.head_dim);
      const auto dense = [&](const Matrix<Scalar>& k, const Matrix<Scalar>& v) {
        return testing::dense_attention<Scalar>(shape, queries, k, v, valid);
      };
      Matrix<Scalar> out(rows, queries.cols());
      cache.attend(layer, queries, out, options);
      const Matrix<double> expected = dense(keys, values);
      const double error = (out.template cast<double>() - expected).norm();
      const double from_codes = (dense(given_keys, given_values) - expected).norm();
      // A tenth of what codes lose over many rows, so somewhat more of a single one; and roundoff.
      const double allowed =
          (cache.config().arithmetic == Arithmetic::fast ? 0.2 * from_codes : 0) +
          roundoff * expected.norm();
      expect(error <= allowed, "attention to layer ", layer, " is off by ", error, ", more than ",
             allowed);
      if (allowed > 0) attention_error_ = std::max(attention_error_, error / allowed);
    }
    ++checks_;
    tokens_ += history.size();
  }

  Index checks() const { return checks_; }
  Index tokens() const { return tokens_; }
  double worst_attention() const { return attention_error_; }  ///< relative to what is allowed
  /// |decoded - given| / |given| over all quantized keys, or values, that were looked at.
  double key_error() const { return std::sqrt(errors_[0] / sizes_[0]); }
  double value_error() const { return std::sqrt(errors_[1] / sizes_[1]); }

 private:
  static constexpr double roundoff = std::is_same_v<Scalar, float> ? 2e-5 : 1e-2;

  /// Keys or values are zero where padding is, as given (but for a part `rounding`) where they are
  /// exact, and otherwise what they were when first looked at.
  void check_rows(char what, Index layer, History& history, const Matrix<Scalar>& decoded,
                  const Matrix<Scalar>& given, double rounding) {
    const bool is_key = what == 'k';
    for (Index t = 0; t < history.size(); ++t) {
      Token& token = history.tokens()[static_cast<std::size_t>(t)];
      if (!token.valid) {
        expect((decoded.row(t).array() == Scalar(0)).all(), what, " of padding token ", t,
               " in layer ", layer, " is not zero");
      } else if (is_key ? history.has_exact_key(t) : history.has_exact_value(t)) {
        const auto difference =
            decoded.row(t).template cast<double>() - given.row(t).template cast<double>();
        expect(difference.norm() <= rounding * given.row(t).template cast<double>().norm(), what,
               " of token ", t, " in layer ", layer, " is not as given");
      } else {
        auto& seen = (is_key ? token.key_seen : token.value_seen)[static_cast<std::size_t>(layer)];
        const std::uint64_t now = hash(decoded.row(t).data(), decoded.cols());
        expect(seen == 0 || seen == now, what, " of token ", t, " in layer ", layer,
               " has other codes than before");
        seen = now;
        const Matrix<double> original = given.row(t).template cast<double>();
        errors_[!is_key] += (decoded.row(t).template cast<double>() - original).squaredNorm();
        sizes_[!is_key] += original.squaredNorm();
      }
    }
  }

  static std::uint64_t hash(const Scalar* row, Index width) {
    std::uint64_t sum = 0;
    for (Index c = 0; c < width; ++c) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, row + c, sizeof(Scalar));
      sum = mix(sum ^ bits);
    }
    return sum | 1;  // 0 stands for none
  }

  Index checks_ = 0;
  Index tokens_ = 0;
  double attention_error_ = 0;
  double errors_[2] = {}, sizes_[2] = {};  // squares, of keys and of values
};

}  // namespace squat::soak
