// Which keys stay in full precision besides the first tokens of a sequence.
#pragma once

#include <algorithm>
#include <array>
#include <squat/detail/math/reproducible.hpp>
#include <squat/detail/store/layer_store.hpp>
#include <vector>

namespace squat::detail {

/// Chooses, of the residual keys of a layer, those that their block would ruin, or they it: a few
/// that are far larger than all others, and a few that are far smaller. The large ones leave codes
/// of the others nothing. The small ones are attention sinks inside a text: heads that look for
/// nothing look at keys of small norm (Devoto et al., arXiv 2406.11430), which in ranges of the
/// others are mostly error. Where many keys are small, none of them is special.
template <class Scalar>
class ExactKeys {
 public:
  static constexpr std::size_t most_of_block = 4;

  /// `tops` [tokens, kv_heads] of the oldest residual keys. Both outlive it.
  ExactKeys(const LayerStore<Scalar>& store, const std::vector<RecordTops>& tops)
      : store_(store), tops_(tops), kv_heads_(store.format().kv_heads()) {}

  /// Of the `tokens` residual keys of a block from `first` on, in ascending order.
  std::vector<Index> of_block(Index first, Index tokens) const {
    std::uint8_t counts[TokenBlock::max_tokens];
    store_.mark(first, tokens, counts);
    std::vector<Index> found = large(first, tokens, counts);
    for (const Index token : found) counts[token - first] = 0;
    const std::vector<Index> small = this->small(first, tokens, counts);
    if (found.size() + small.size() <= most_of_block)
      found.insert(found.end(), small.begin(), small.end());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  /// Up to two keys of a head whose largest numbers are over eight times those of all others that
  /// count.
  std::vector<Index> large(Index first, Index tokens, const std::uint8_t* counts) const {
    constexpr std::size_t most_of_head = 2;
    constexpr float ratio = 8;
    std::vector<Index> found;
    for (Index head = 0; head < kv_heads_; ++head) {
      std::array<std::pair<float, Index>, most_of_head + 1> largest{};  // and whose, in order
      for (Index token = first; token < first + tokens; ++token) {
        std::pair<float, Index> one{tops_[at(token * kv_heads_ + head)].keys, token};
        for (auto& other : largest)
          if (counts[token - first] != 0 && one.first > other.first) std::swap(one, other);
      }
      std::size_t count = most_of_head;
      while (count > 0 &&
             !(largest[count].first > 0 && largest[count - 1].first > ratio * largest[count].first))
        --count;
      for (std::size_t i = 0; i < count && found.size() < most_of_block; ++i)
        if (std::find(found.begin(), found.end(), largest[i].second) == found.end())
          found.push_back(largest[i].second);
    }
    return found;
  }

  /// All that count whose norm is below half of the median of the block's in a third of the
  /// heads.
  std::vector<Index> small(Index first, Index tokens, const std::uint8_t* counts) const {
    constexpr double ratio = 0.5 * 0.5;  // of energies
    Matrix<Scalar> keys(tokens, store_.format().head_dim());
    std::vector<double> energies(at(tokens)), sorted;
    std::array<Index, TokenBlock::max_tokens> heads{};  // in which a key is small
    for (Index head = 0; head < kv_heads_; ++head) {
      store_.read_keys(first, head, keys);
      // In double precision the squares of a key of floats neither vanish nor overflow.
      const Matrix<double> wide = keys.template cast<double>();
      sorted.clear();
      for (Index token = 0; token < tokens; ++token) {
        if (counts[token] == 0) continue;
        const double* const key = wide.row(token).data();
        energies[at(token)] = dot(key, key, wide.cols());
        sorted.push_back(energies[at(token)]);
      }
      if (sorted.empty()) return {};
      const auto median = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
      std::nth_element(sorted.begin(), median, sorted.end());
      for (Index token = 0; token < tokens; ++token)
        heads[at(token)] += counts[token] != 0 && energies[at(token)] < ratio * *median;
    }
    std::vector<Index> found;
    for (Index token = 0; token < tokens; ++token)
      if (heads[at(token)] > 0 && 3 * heads[at(token)] >= kv_heads_) found.push_back(first + token);
    return found;
  }

  const LayerStore<Scalar>& store_;
  const std::vector<RecordTops>& tops_;
  Index kv_heads_;
};

}  // namespace squat::detail
