// What a caller may say with each call.
#pragma once

#include <algorithm>
#include <squat/matrix.hpp>
#include <vector>

namespace squat {

/// Which tokens of a call are real: one byte a token, 0 for padding. A view; empty means all.
/// Padding is stored, so that positions agree over a batch, but it neither fits the subspace, nor
/// widens a range, nor receives attention, and its own output row is zero.
class Mask {
 public:
  Mask() = default;
  Mask(const std::uint8_t* data, Index size) : data_(data), size_(size) {}
  Mask(const std::vector<std::uint8_t>& valid)  // implicit: {.mask = valid}
      : data_(valid.data()), size_(static_cast<Index>(valid.size())) {}

  bool empty() const { return size_ == 0; }
  Index size() const { return size_; }
  bool operator[](Index token) const { return size_ == 0 || data_[token] != 0; }

 private:
  const std::uint8_t* data_ = nullptr;
  Index size_ = 0;
};

/// Tokens [begin, end) of a sequence.
struct TokenRange {
  Index begin = 0;
  Index end = 0;

  bool empty() const { return begin >= end; }
  /// Which of `count` tokens from `first` on are in the range, counted from `first`.
  TokenRange among(Index first, Index count) const {
    const Index from = std::clamp(begin - first, Index{0}, count);
    return {from, std::clamp(end - first, from, count)};
  }
};

/// What each query row of a call sees, in place of what comes before it and its layer's window or
/// chunk. A view; empty means that the layer decides.
class VisibleRanges {
 public:
  VisibleRanges() = default;
  VisibleRanges(const TokenRange* data, Index size) : data_(data), size_(size) {}
  VisibleRanges(const std::vector<TokenRange>& ranges)  // implicit: {.visible = ranges}
      : data_(ranges.data()), size_(static_cast<Index>(ranges.size())) {}

  bool empty() const { return size_ == 0; }
  Index size() const { return size_; }
  const TokenRange& operator[](Index row) const { return data_[row]; }

 private:
  const TokenRange* data_ = nullptr;
  Index size_ = 0;
};

/// Which of a layer's newest `tokens` tokens each query row sees, of those that it sees otherwise:
/// bytes [rows, tokens], 0 for one that it does not see. For the branches of a tree of drafts. A
/// view; empty means all.
class TreeMask {
 public:
  TreeMask() = default;
  TreeMask(const std::uint8_t* data, Index rows, Index tokens)
      : data_(data), rows_(rows), tokens_(tokens) {}

  bool empty() const { return data_ == nullptr; }
  Index rows() const { return rows_; }
  Index tokens() const { return tokens_; }
  bool operator()(Index row, Index token) const { return data_[row * tokens_ + token] != 0; }

 private:
  const std::uint8_t* data_ = nullptr;
  Index rows_ = 0;
  Index tokens_ = 0;
};

/// Which queries shape the subspace.
enum class FitQueries {
  first_update,  ///< those of the first update of an empty sequence: the prompt, as published
  /// These too, for a prompt that arrives in several chunks. Each time that the tokens gathered
  /// pass a power of two, keys that leave the residual from then on have a new subspace and new
  /// bits per channel, which take a few bytes. 1024 tokens are enough; the prompt is over before
  /// where keys have left the residual and an update does not ask for this. From then on it has no
  /// effect: a later chunk does not replace what many queries gave by what a few new ones would.
  accumulate,
  /// For a decoder: as `accumulate` in updates of several tokens that end within the first 256, as
  /// `first_update` in others there; and from then on keys follow the queries. Those since the last
  /// keys left the residual (of every fourth token, where they come one by one) are the subspace of
  /// the next ones, and every 1024 tokens channels have new bits. With RoPE the mean query of a
  /// head turns, and texts change: the first queries do not tell what later ones ask for.
  follow,
};

/// The last argument of every call of SQuatCache.
struct CallOptions {
  Index sequence = 0;
  Mask mask = {};
  FitQueries fit = FitQueries::first_update;
  /// attend: position of the first query, where the layer's first token has position 0; the next
  /// rows follow. They see tokens up to their own position. With the layer's size or more the
  /// queries' own tokens are elsewhere (in another cache that holds what follows), they see all of
  /// this one, and `mask` says which of them are padding. -1: the newest tokens'.
  Index position = -1;
  /// attend and attention write log(sum(exp(score))) of every row and query head here
  /// [rows, query_heads], if it is not null: what merging with attention over other tokens takes.
  /// Minus infinity for padding.
  float* log_sum_exp = nullptr;
  /// attend and attention: what each row sees, each range in tokens that the layer holds. One that
  /// is empty makes a row of zeros.
  VisibleRanges visible = {};
  /// attend and attention: one row a query row, over the newest tokens alone.
  TreeMask tree = {};
  /// attend and attention write here, if it is not null, how much attention each token got: the sum
  /// of its probabilities over all rows and query heads of a kv head [kv_heads, size of the layer],
  /// as eviction by score wants it (H2O, SnapKV). Tokens that are dropped get 0. Keys are read a
  /// second time for it.
  float* received = nullptr;
};

}  // namespace squat
