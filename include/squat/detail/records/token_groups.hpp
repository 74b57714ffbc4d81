// Channels that share a scale in every token.
#pragma once

#include <algorithm>
#include <squat/detail/records/layer_settings.hpp>

namespace squat::detail {

/// Groups of consecutive channels of a head, the last one maybe smaller, and where a record of
/// Config::token_group_size tokens keeps scale and zero point of each in each token:
/// [groups][tokens].
class TokenGroups {
 public:
  /// `group_size` channels to a group. Fails unless head_dim is a multiple of 8.
  TokenGroups(Index head_dim, Index group_size, const LayerSettings& settings)
      : head_dim_(head_dim),
        tokens_(settings.block_tokens),
        size_(std::min(group_size, head_dim)),
        groups_((head_dim_ + size_ - 1) / size_) {
    require(head_dim >= 8 && head_dim % 8 == 0, "head_dim is ", head_dim,
            "; in records it must be a multiple of 8");
  }

  Index head_dim() const { return head_dim_; }
  Index tokens() const { return tokens_; }
  Index groups() const { return groups_; }
  Index group_of(Index channel) const { return channel / size_; }
  Index group_begin(Index group) const { return group * size_; }
  Index group_end(Index group) const { return std::min((group + 1) * size_, head_dim_); }
  Index entry(Index token, Index group) const { return group * tokens_ + token; }
  Index entries() const { return groups() * tokens_; }

 private:
  Index head_dim_;
  Index tokens_;
  Index size_;
  Index groups_;
};

}  // namespace squat::detail
