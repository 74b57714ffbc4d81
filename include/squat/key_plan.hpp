// What the keys of a layer are quantized with, and what it follows from.
#pragma once

#include <memory>
#include <squat/key_quantizer.hpp>
#include <squat/memory.hpp>

namespace squat {

/// What keys of a layer are quantized with, an entry a kv head.
template <class Scalar>
struct KeyPlan {
  std::shared_ptr<const std::vector<KeyBlock>> blocks;
  std::vector<KeyQuantizer<Scalar>> quantizers;              ///< for these blocks
  std::vector<ErrorFeedback<ComputeType<Scalar>>> feedback;  ///< channels in their order

  KeyPlan(std::vector<KeyBlock> key_blocks, std::vector<ErrorFeedback<ComputeType<Scalar>>> tables,
          const Config& config)
      : KeyPlan(std::make_shared<const std::vector<KeyBlock>>(std::move(key_blocks)),
                std::move(tables), config) {}
  KeyPlan(std::shared_ptr<const std::vector<KeyBlock>> key_blocks,
          std::vector<ErrorFeedback<ComputeType<Scalar>>> tables, const Config& config)
      : blocks(std::move(key_blocks)), feedback(std::move(tables)) {
    quantizers.reserve(blocks->size());
    for (const KeyBlock& block : *blocks) quantizers.emplace_back(block, config);
  }

  Index bytes() const {
    Index sum = Index{sizeof(*this)};
    for (const auto& table : feedback) sum += Index{sizeof(table)} + table.bytes();
    for (const auto& quantizer : quantizers)
      sum += Index{sizeof(quantizer)} + quantizer.block().header_bytes();
    return sum;
  }
};

/// What a layer knows of its queries and keys, and what follows from it for the keys that leave
/// the residual next.
template <class Scalar>
struct KeyFit {
  std::vector<SecondMoment> moments;      // per kv head, while there may be more queries
  std::vector<KeyStatistics> statistics;  // per kv head, of the keys packed since the fit began
  std::shared_ptr<const KeyPlan<Scalar>> plan;  // null until keys leave, and when it is outdated

  void forget() {
    moments.clear();
    moments.shrink_to_fit();
    statistics.clear();
    statistics.shrink_to_fit();
  }

  /// `counted` says what other sequences share.
  Index bytes(Counted& counted) const {
    Index sum = plan && counted.insert(plan.get()).second ? plan->bytes() : 0;
    for (const SecondMoment& moment : moments) sum += Index{sizeof(moment)} + moment.bytes();
    for (const KeyStatistics& one : statistics) sum += Index{sizeof(one)} + one.bytes();
    return sum;
  }
};

/// The plan that `config` makes of second moments of queries and statistics of keys, an entry a kv
/// head each; its key_bits are not 0. Keys with scales per token stay in `even_blocks`, blocks of
/// keys of which nothing is known.
template <class Scalar>
std::shared_ptr<const KeyPlan<Scalar>> make_key_plan(
    const std::vector<SecondMoment>& moments, const std::vector<KeyStatistics>& statistics,
    const std::shared_ptr<const std::vector<KeyBlock>>& even_blocks, const Config& config) {
  const bool per_token = config.key_scales == KeyScales::per_token;
  std::vector<KeyBlock> blocks;
  std::vector<ErrorFeedback<ComputeType<Scalar>>> feedback;
  for (std::size_t head = 0; head < moments.size(); ++head) {
    QuerySubspace subspace =
        QuerySubspace::fit(moments[head], config.subspace_dim, config.squat_lambda,
                           config.normalised_lambda, config.subspace_method);
    if (config.rotate_keys) subspace = subspace.rotated();
    if (per_token) {
      feedback.emplace_back(subspace, config.quant_group_size);
      continue;
    }
    const Index head_dim = subspace.head_dim();
    BitAllocation bits = config.adaptive_bits
                             ? allocate_bits(subspace, statistics[head].squared_ranges(),
                                             config.key_bits, config.backend)
                             : even_bits(head_dim, config.key_bits);
    feedback.emplace_back(subspace.reordered(bits.order), config.quant_group_size);
    blocks.emplace_back(head_dim, std::move(bits), config);
    blocks.back().set_expected(statistics[head].middles());
  }
  return std::make_shared<const KeyPlan<Scalar>>(
      per_token ? even_blocks : std::make_shared<const std::vector<KeyBlock>>(std::move(blocks)),
      std::move(feedback), config);
}

}  // namespace squat
