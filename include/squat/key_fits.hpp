// Which queries shape the metric of each sequence's keys, and who shares it.
#pragma once

#include <map>
#include <mutex>
#include <squat/layer_cache.hpp>
#include <squat/query_moments.hpp>

namespace squat {

/// What the keys of every layer and sequence are quantized under: a fit of the sequence's own, with
/// Config::shared_svd that of the sequence which was first in the layer, or one from elsewhere
/// (calibrate()).
///
/// With a fit in common, calls about the same layer may come from several threads: a mutex of the
/// layer guards it.
template <class Scalar>
class KeyFits {
 public:
  using Real = ComputeType<Scalar>;
  using Fit = KeyFit<Scalar>;
  using OwnFits = std::vector<std::unique_ptr<Fit>>;  // [layers, sequences]; null: none
  using Lock = std::unique_lock<std::mutex>;

  /// No bits in `config` are 0. `rope` is null where the caller turns queries.
  KeyFits(const ModelShape& shape, const Config& config, Index sequences,
          std::shared_ptr<const RopeTable> rope)
      : shape_(shape),
        config_(config),
        sequences_(sequences),
        rope_(std::move(rope)),
        own_(static_cast<std::size_t>(shape.layers * sequences)),
        locks_(new std::mutex[static_cast<std::size_t>(shape.layers)]) {
    const std::vector<ErrorFeedback<Real>> no_feedback(kv_heads(),
                                                       ErrorFeedback<Real>(shape.head_dim));
    std::map<double, std::shared_ptr<const KeyPlan<Scalar>>> plans;  // by bits
    for (Index layer = 0; layer < shape.layers; ++layer) {
      const Config own = config.of_layer(layer);
      auto& plan = plans[own.key_bits];
      if (!plan) {
        const KeyBlock even(shape.head_dim, even_bits(shape.head_dim, own.key_bits), own);
        plan = std::make_shared<const KeyPlan<Scalar>>(
            std::make_shared<const std::vector<KeyBlock>>(kv_heads(), even), no_feedback, own);
      }
      blank_plans_.push_back(plan);
    }
  }

  /// Blocks of keys of a layer of which nothing is known, an entry a kv head.
  const std::shared_ptr<const std::vector<KeyBlock>>& even_blocks(Index layer) const {
    return blank_plan(layer)->blocks;
  }

  /// From now on all keys go by `moments`, until clear(). Fails on another shape, or without
  /// queries.
  void calibrate(const QueryMoments& moments) {
    const ModelShape& shape = moments.shape();
    require(shape.layers == shape_.layers && shape.kv_heads == shape_.kv_heads &&
                shape.head_dim == shape_.head_dim,
            "moments are for ", shape.layers, " layers, ", shape.kv_heads, " kv heads of ",
            shape.head_dim, "; the cache has ", shape_.layers, ", ", shape_.kv_heads, " of ",
            shape_.head_dim);
    std::vector<Fit> fits(static_cast<std::size_t>(shape_.layers));
    for (Index layer = 0; layer < shape_.layers; ++layer)
      for (Index head = 0; head < shape_.kv_heads; ++head) {
        require(moments.moment(layer, head).count() > 0, "moments of layer ", layer, ", kv head ",
                head, " have no queries");
        fits[static_cast<std::size_t>(layer)].moments.push_back(moments.moment(layer, head));
      }
    calibrated_ = std::move(fits);
  }

  /// New queries of a sequence on their way into its fit.
  struct Joining {
    std::unique_ptr<Fit> fit;  ///< what the sequence's fit becomes, or null: it stays what it is
    bool may_join;             ///< whether such queries shape a fit at all
    bool goes_on;              ///< whether they follow others of one text, token by token
    bool wants_plan;           ///< whether the fit has so many more now that a new plan is due
  };

  /// Queries of an update of `tokens`, which has not begun.
  Joining join(Index layer, Index sequence, const LayerCache<Scalar>& tokens,
               const MatrixView<Scalar>& queries, const CallOptions& options) const {
    const bool accumulate = options.fit == FitQueries::accumulate, has_valid = tokens.has_valid();
    Joining joining{nullptr, false, has_valid && !accumulate, true};
    Index before = 0;
    {
      const Lock lock = guard(layer);
      const Index owner = this->owner(layer, sequence);
      const Fit* const fit = has_valid ? own(layer, sequence).get() : nullptr;
      joining.may_join = owner == nobody || (accumulate && !is_complete(fit)) ||
                         config_.query_decay > 0 || !has_valid;
      if (joining.may_join && (owner == nobody || owner == sequence)) {
        joining.fit = continued(fit);
        before = gathered(*joining.fit);
      }
    }
    if (joining.fit && !take_in(*joining.fit, tokens, queries, options.mask)) joining.fit = nullptr;
    if (joining.fit && before > 0 && config_.query_decay == 0)
      joining.wants_plan = std::ilogb(gathered(*joining.fit)) > std::ilogb(before);
    return joining;
  }

  /// The update of `tokens` is done.
  void settle(Index layer, Index sequence, const LayerCache<Scalar>& tokens, Joining joining) {
    const Lock lock = guard(layer);
    std::unique_ptr<Fit>& own = this->own(layer, sequence);
    if (joining.fit) {
      // Keys that come one by one keep to the metric of their row, or each would ask for a new
      // plan.
      if (joining.goes_on && own && tokens.fills_row()) joining.fit->plan = own->plan;
      if (!joining.wants_plan && own && own->plan) {
        joining.fit->plan = own->plan;
        joining.fit->statistics = std::move(own->statistics);
      }
      const Index owner = this->owner(layer, sequence);  // another may have been first
      if (owner == nobody || owner == sequence) own = std::move(joining.fit);
    } else if (!joining.may_join && own && own->plan) {
      own->forget();  // the prompt is over
    }
  }

  /// What the keys that leave `tokens` now are quantized with. Without a fit they are all padding
  /// or exact.
  std::shared_ptr<const KeyPlan<Scalar>> plan(Index layer, Index sequence,
                                              const LayerCache<Scalar>& tokens) {
    const Lock lock = guard(layer);
    const Index owner = this->owner(layer, sequence);
    if (owner == nobody) return blank_plan(layer);
    Fit& fit =
        owner == calibration ? calibrated_[static_cast<std::size_t>(layer)] : *own(layer, owner);
    if (fit.plan) return fit.plan;
    if (tokens.leaving_keys() == 0) return blank_plan(layer);  // which packs nothing then
    std::vector<KeyStatistics> statistics = fit.statistics;
    if (statistics.empty()) statistics.assign(kv_heads(), KeyStatistics(shape_.head_dim));
    tokens.describe(statistics);
    fit.plan =
        make_key_plan<Scalar>(fit.moments, statistics, even_blocks(layer), config_.of_layer(layer));
    fit.statistics = std::move(statistics);
    return fit.plan;
  }

  /// For fork(): a copy of what `sequence` alone goes by, or null.
  std::unique_ptr<Fit> copy(Index layer, Index sequence) const {
    const std::unique_ptr<Fit>& fit = own(layer, sequence);
    return fit && !config_.shared_svd ? std::make_unique<Fit>(*fit) : nullptr;
  }
  void take_copy(Index layer, Index sequence, std::unique_ptr<Fit> copy) noexcept {
    if (!config_.shared_svd) own(layer, sequence) = std::move(copy);
  }

  /// Takes what a file had for one sequence, unless that goes by what others have too.
  void replace(Index layer, Index sequence, std::unique_ptr<Fit> fit) {
    const Lock lock = guard(layer);
    const Index owner = this->owner(layer, sequence);
    if (owner != nobody && owner != sequence) return;
    // Others may go by a subspace that the file has nothing to put in place of.
    if (fit || !config_.shared_svd || sequences_ == 1) own(layer, sequence) = std::move(fit);
  }

  /// Takes what a file had for all; `calibrated` has an entry a layer, or none.
  void replace(OwnFits own, std::vector<Fit> calibrated) noexcept {
    own_ = std::move(own);
    calibrated_ = std::move(calibrated);
  }

  void clear() noexcept {
    for (std::unique_ptr<Fit>& fit : own_) fit = nullptr;
    calibrated_.clear();
  }

  // For files; null where there is none. To be called with guard(layer).
  bool is_calibrated() const { return !calibrated_.empty(); }
  const Fit* calibrated(Index layer) const { return &calibrated_[static_cast<std::size_t>(layer)]; }
  const Fit* of(Index layer, Index sequence) const { return own(layer, sequence).get(); }
  /// Of the sequence that `sequence` goes by, whosever it is.
  const Fit* behind(Index layer, Index sequence) const {
    const Index first = first_fitted(layer, sequence);
    return first == nobody ? nullptr : of(layer, first);
  }

  /// Guards the fits of a layer where several sequences go by the same one, and does nothing where
  /// each has its own.
  Lock guard(Index layer) const {
    const bool shared = config_.shared_svd || is_calibrated();
    return shared ? Lock(locks_[static_cast<std::size_t>(layer)]) : Lock();
  }

  /// Bytes; `counted` says what sequences share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage;
    usage.bookkeeping = shape_.layers * Index{sizeof(std::mutex)} +
                        static_cast<Index>(own_.capacity() * sizeof(own_[0]) +
                                           blank_plans_.capacity() * sizeof(blank_plans_[0]) +
                                           config_.layer_bits.capacity() * sizeof(LayerBits));
    for (const std::unique_ptr<Fit>& fit : own_)
      if (fit) usage.subspace += Index{sizeof(Fit)} + fit->bytes(counted);
    for (const Fit& fit : calibrated_) usage.subspace += Index{sizeof(Fit)} + fit.bytes(counted);
    for (const auto& plan : blank_plans_)
      if (counted.insert(plan.get()).second) {
        usage.bookkeeping += plan->bytes();
        if (counted.insert(plan->blocks.get()).second)
          for (const KeyBlock& block : *plan->blocks)
            usage.bookkeeping += block.bookkeeping_bytes();
      }
    return usage;
  }

 private:
  // Owners of a metric that are no sequence.
  static constexpr Index nobody = -1, calibration = -2;

  // Queries of so many tokens tell of a prompt what it takes. More hardly change the metric, while
  // their moments take more memory than the codes of as many tokens.
  static constexpr Index enough_tokens = 1024;

  /// Tokens whose queries are in the moments of a fit, exact ones included.
  Index gathered(const Fit& fit) const {
    const Index queries = fit.moments.empty() ? 0 : fit.moments.front().count();
    return queries == 0 ? 0 : queries / shape_.heads_per_kv() + config_.exact_tokens;
  }

  /// Whether keys keep to the plan of `fit`, null for none, whatever queries come: they were
  /// enough, or forgotten when the prompt was over. A few new ones would make a worse plan.
  bool is_complete(const Fit* fit) const {
    return fit != nullptr && fit->plan && (fit->moments.empty() || gathered(*fit) >= enough_tokens);
  }

  std::size_t kv_heads() const { return static_cast<std::size_t>(shape_.kv_heads); }
  std::size_t index(Index layer, Index sequence) const {
    return static_cast<std::size_t>(layer * sequences_ + sequence);
  }
  std::unique_ptr<Fit>& own(Index layer, Index sequence) { return own_[index(layer, sequence)]; }
  const std::unique_ptr<Fit>& own(Index layer, Index sequence) const {
    return own_[index(layer, sequence)];
  }

  /// The sequence whose fit `sequence` quantizes with, were nothing calibrated.
  Index first_fitted(Index layer, Index sequence) const {
    if (!config_.shared_svd) return own(layer, sequence) ? sequence : nobody;
    for (Index s = 0; s < sequences_; ++s)
      if (own(layer, s)) return s;
    return nobody;
  }
  Index owner(Index layer, Index sequence) const {
    return is_calibrated() ? calibration : first_fitted(layer, sequence);
  }

  /// A fit for queries to join in: a copy of `fit`, or from nothing.
  std::unique_ptr<Fit> continued(const Fit* fit) const {
    auto copy = std::make_unique<Fit>();
    if (fit != nullptr) {
      copy->moments = fit->moments;
      copy->statistics = fit->statistics;
    }
    if (copy->moments.empty()) copy->moments.assign(kv_heads(), SecondMoment(shape_.head_dim));
    return copy;
  }

  /// Adds the queries of new tokens to a fit; returns whether it has any now. Exact tokens do not
  /// count.
  bool take_in(Fit& fit, const LayerCache<Scalar>& tokens, const MatrixView<Scalar>& queries,
               const Mask& mask) const {
    const Index d = shape_.head_dim;
    std::vector<std::uint8_t> counts(static_cast<std::size_t>(queries.rows()));
    Index exact = tokens.exact_to_come(), counted = 0;
    for (Index token = 0; token < queries.rows(); ++token) {
      const bool is_exact = mask[token] && exact > 0;
      exact -= is_exact;
      counts[static_cast<std::size_t>(token)] = mask[token] && !is_exact;
      counted += mask[token] && !is_exact;
    }
    if (config_.query_decay > 0)
      for (SecondMoment& moment : fit.moments)
        moment.fade(std::pow(config_.query_decay, static_cast<double>(counted)));
    for (Index head = 0; head < shape_.query_heads; ++head) {
      SecondMoment& moment = fit.moments[static_cast<std::size_t>(head / shape_.heads_per_kv())];
      const auto own = queries.middleCols(head * d, d);
      if (rope_ && config_.subspace_queries == SubspaceQueries::after_rope) {
        Matrix<Real> rotated = own.template cast<Real>();
        RopeWalk<Real>(*rope_).rotate(tokens.size(), rotated.data(), rotated.rows(), d);
        moment.add<Real>(rotated, counts);
      } else {
        moment.add<Scalar>(own, counts);
      }
    }
    return fit.moments.front().count() > 0;
  }

  /// Of a layer, under no metric.
  const std::shared_ptr<const KeyPlan<Scalar>>& blank_plan(Index layer) const {
    return blank_plans_[static_cast<std::size_t>(layer)];
  }

  ModelShape shape_;
  Config config_;
  Index sequences_;
  std::shared_ptr<const RopeTable> rope_;
  OwnFits own_;
  std::vector<Fit> calibrated_;                                      // per layer, or empty
  std::unique_ptr<std::mutex[]> locks_;                              // of each layer's fits
  std::vector<std::shared_ptr<const KeyPlan<Scalar>>> blank_plans_;  // per layer
};

}  // namespace squat
