// What a sequence was given, and how much of it a cache may have quantized.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <squat/config.hpp>
#include <vector>

namespace squat::soak {

inline constexpr Index layers = 2;

inline std::uint64_t mix(std::uint64_t x) {  // SplitMix64 (Steele, Lea & Flood 2014)
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// One token; its numbers follow from its seed, so that nobody has to keep them.
struct Token {
  std::uint64_t seed = 0;
  bool valid = true;
  bool exact = false;  // kept in full precision for ever
  /// What the cache once answered for the quantized key and value, hashed; 0: it was not asked.
  std::array<std::uint64_t, layers> key_seen{}, value_seen{};

  /// Fills row [width] of `layer`. `what` is 'q', 'k' or 'v'. Of unit variance, but for every
  /// eighth channel, which is four times as wide.
  template <class Scalar>
  void fill(char what, Index layer, Index width, Scalar* row) const {
    const std::uint64_t start = mix(seed + static_cast<std::uint64_t>(256 * layer + what));
    for (Index c = 0; c < width; ++c) {
      const std::uint64_t bits = mix(start + static_cast<std::uint64_t>(c));
      const double between_ends = static_cast<double>(bits >> 11) * 0x1p-52 - 1;  // -1 to 1
      row[c] = static_cast<Scalar>(between_ends * 1.7320508 * (c % 8 == 0 ? 4 : 1));
    }
  }
};

/// The tokens of one sequence, and where its quantized part ends.
class History {
 public:
  explicit History(const Config& config) : config_(config) {}

  Index size() const { return static_cast<Index>(tokens_.size()); }
  std::vector<Token>& tokens() { return tokens_; }
  bool has_exact_key(Index token) const {
    return token >= quantized_keys_ || is_full_precision(token);
  }
  bool has_exact_value(Index token) const {
    return token >= quantized_values_ || is_full_precision(token);
  }

  std::vector<std::uint8_t> valid() const {
    std::vector<std::uint8_t> valid;
    for (const Token& token : tokens_) valid.push_back(token.valid);
    return valid;
  }

  /// As SQuatCache::attention does: appends, then quantizes what may leave the residual.
  void append(const std::vector<Token>& tokens) {
    Index exact =
        std::count_if(tokens_.begin(), tokens_.end(), [](const Token& t) { return t.exact; });
    for (Token token : tokens) {
      token.exact = token.valid && exact < config_.full_precision_tokens;
      exact += token.exact;
      tokens_.push_back(token);
    }
    const Index residual = config_.residual_length;
    quantized_keys_ += (size() - quantized_keys_) / residual * residual;
    quantized_values_ = std::max(quantized_values_, size() - residual);
  }

  void truncate(Index size) {
    tokens_.resize(static_cast<std::size_t>(size));
    quantized_keys_ = std::min(quantized_keys_, size);
    quantized_values_ = std::min(quantized_values_, size);
  }

 private:
  bool is_full_precision(Index token) const {
    return tokens_[static_cast<std::size_t>(token)].exact;
  }

  Config config_;
  std::vector<Token> tokens_;
  Index quantized_keys_ = 0;
  Index quantized_values_ = 0;
};

}  // namespace squat::soak
