// Which queries shape the metric of each sequence's keys, and who shares it.
#pragma once

#include <map>
#include <mutex>
#include <squat/detail/plan/follow_step.hpp>
#include <squat/detail/plan/key_fit.hpp>
#include <squat/detail/plan/query_gatherer.hpp>

namespace squat::detail {

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
  using Fit = KeyFit<Real>;
  using Plan = std::shared_ptr<const KeyPlan<Real>>;
  using OwnFits = std::vector<std::unique_ptr<Fit>>;  // [layers, sequences]; null: none
  using Lock = std::unique_lock<std::mutex>;

  /// An entry of `formats` a layer.
  KeyFits(const Config& config, Index sequences, const LayerFormats& formats)
      : shares_subspace_(config.shared_svd),
        query_decay_(config.query_decay),
        gatherer_(config),
        sequences_(sequences),
        formats_(formats),
        own_(formats.size() * static_cast<std::size_t>(sequences)),
        locks_(new std::mutex[formats.size()]) {
    std::map<const LayerFormat*, Plan> plans;
    for (const auto& format : formats_) {
      Plan& plan = plans[format.get()];
      if (!plan)
        plan = std::make_shared<const KeyPlan<Real>>(
            KeyPlan<Real>{format->blank_key_layouts,
                          {static_cast<std::size_t>(format->kv_heads()),
                           ErrorFeedback<Real>(format->head_dim())}});
      blank_plans_.push_back(plan);
    }
  }

  /// From now on all keys go by `moments` [layers][kv_heads], of the shape and with queries, until
  /// clear().
  void calibrate(const std::vector<std::vector<SecondMoment>>& moments) {
    std::vector<Fit> fits(moments.size());
    for (std::size_t layer = 0; layer < fits.size(); ++layer) {
      fits[layer].queries = {moments[layer].begin(), moments[layer].end()};
      fits[layer].end_prompt(formats_[layer]->settings);
    }
    calibrated_ = std::move(fits);
  }

  /// What a fit has to know of the tokens of its layer and sequence.
  struct Tokens {
    Index size;
    Index full_precision_to_come;
    bool has_valid;
    bool has_open_block;  ///< keys that leave the residual join others in a block
    bool keys_leave;      ///< some do now, before the new tokens come
  };

  /// New queries on their way into the fit of a sequence: begin() may fail and changes nothing,
  /// commit() cannot.
  struct Transaction {
    std::unique_ptr<Fit> fit;  ///< what the sequence's fit becomes, or null: it stays what it is
    bool may_join;             ///< whether such queries shape a fit at all
    bool continues;            ///< whether they follow others of one text, token by token
    bool wants_plan;           ///< whether the fit has so many more now that a new plan is due
    bool joins = false;        ///< whether the fit has others of the same text
  };

  /// Before `tokens` take in new ones. `queries` is null where there are none, which shape a fit
  /// only if there is none.
  Transaction begin(Index layer, Index sequence, const Tokens& tokens,
                    const MatrixView<Scalar>* queries, const CallOptions& options) const {
    const Index rows = queries == nullptr ? 0 : queries->rows();
    const FollowStep step(options.fit, tokens.size, rows);
    const bool accumulate =
        options.fit == FitQueries::accumulate || (options.fit == FitQueries::follow && rows != 1);
    Transaction transaction{nullptr, false, tokens.has_valid && !accumulate, true};
    Index before = 0;
    bool follows = false;
    {
      const Lock lock = guard(layer);
      const Index owner = this->owner(layer, sequence);
      const Fit* const fit = tokens.has_valid ? own(layer, sequence).get() : nullptr;
      follows = step.follows && query_decay_ == 0 && fit != nullptr &&
                (fit->plan || fit->prompt_is_over()) && !format(layer).settings.has_token_scales;
      transaction.may_join = owner == no_owner || follows || query_decay_ > 0 ||
                             !tokens.has_valid || (accumulate && !is_complete(layer, fit));
      if ((queries == nullptr && fit != nullptr) || (follows && !step.takes)) return transaction;
      if (transaction.may_join && (owner == no_owner || owner == sequence)) {
        transaction.fit =
            follows ? following(layer, *fit, tokens.keys_leave) : continued(layer, fit);
        transaction.joins = fit != nullptr && !follows;
        before = gathered(layer, *transaction.fit);
      }
    }
    if (queries == nullptr || !transaction.fit) return transaction;
    std::vector<GatheredQueries>& gathered = transaction.fit->queries;
    if (follows) {
      transaction.wants_plan = step.renews;
      if (!gatherer_.join(format(layer), gathered, tokens.size, *queries, options.mask))
        transaction.fit = nullptr;
      return transaction;
    }
    if (!gatherer_.add(format(layer), gathered, tokens.size, tokens.full_precision_to_come,
                       *queries, options.mask))
      transaction.fit = nullptr;
    if (transaction.fit && !accumulate && query_decay_ == 0)
      transaction.fit->end_prompt(format(layer).settings);
    if (transaction.fit && before > 0 && query_decay_ == 0)
      transaction.wants_plan =
          std::ilogb(this->gathered(layer, *transaction.fit)) > std::ilogb(before);
    return transaction;
  }

  /// After `tokens` took them in.
  void commit(Index layer, Index sequence, const Tokens& tokens, Transaction transaction) noexcept {
    const Lock lock = guard(layer);
    std::unique_ptr<Fit>& own = this->own(layer, sequence);
    // Keys that left meanwhile may have ended the prompt.
    if (transaction.joins && own && own->plan && own->queries.empty()) return;
    if (transaction.fit) {
      // Keys that come one by one keep to the metric of their block, or each would ask for a new
      // plan.
      if (transaction.continues && own && tokens.has_open_block) transaction.fit->plan = own->plan;
      if (!transaction.wants_plan && own && own->plan) {
        transaction.fit->plan = own->plan;
        transaction.fit->statistics = std::move(own->statistics);
      }
      const Index owner = this->owner(layer, sequence);  // another may have been first
      if (owner == no_owner || owner == sequence) own = std::move(transaction.fit);
    } else if (!transaction.may_join && own && own->plan) {
      own->forget();  // the prompt is over
    }
  }

  /// What the keys that leave the residual now, if any do, are quantized with. `tops` are the
  /// largest of them and of their values, describe(statistics) adds them to statistics, and
  /// value_means() are those of make_plan(), an entry a kv head each. Without a fit they are all
  /// padding or kept in full precision.
  template <class Describe, class ValueMeans>
  Plan plan(Index layer, Index sequence, bool keys_leave, const std::vector<RecordTops>& tops,
            const Describe& describe, const ValueMeans& value_means) {
    const Lock lock = guard(layer);
    const Index owner = this->owner(layer, sequence);
    if (owner == no_owner) return blank_plan(layer);
    Fit& fit =
        owner == calibration ? calibrated_[static_cast<std::size_t>(layer)] : *own(layer, owner);
    if (fit.plan) {
      if (!keys_leave) return fit.plan;
      const KeyLayouts& before = fit.plan->layouts;
      const KeyLayouts now = in_units(before, raised(units_of(before), tops));
      if (fit.prompt_is_over() && has_enough(layer, fit)) {
        const LayerSettings& settings = this->format(layer).settings;
        fit.plan = make_plan<Real>(fit.metrics(settings), now, settings);
        fit.forget();
      } else if (now != before) {
        fit.plan = std::make_shared<const KeyPlan<Real>>(KeyPlan<Real>{now, fit.plan->feedback});
      }
      return fit.plan;
    }
    if (!keys_leave) return blank_plan(layer);  // which packs nothing then
    const LayerFormat& format = this->format(layer);
    std::vector<KeyStatistics> statistics = fit.statistics;
    if (statistics.empty())
      statistics.assign(static_cast<std::size_t>(format.kv_heads()),
                        KeyStatistics(format.head_dim()));
    describe(statistics);
    fit.plan = make_plan<Real>(fit.metrics(format.settings), statistics, tops, value_means(),
                               format.blank_key_layouts, format.settings);
    fit.statistics = std::move(statistics);
    Plan plan = fit.plan;
    const bool is_last = query_decay_ == 0 && (fit.prompt_is_over() || is_complete(layer, &fit));
    if (owner == calibration || is_last) fit.forget();
    return plan;
  }

  /// For fork(): a copy of what `sequence` alone goes by, or null.
  std::unique_ptr<Fit> copy(Index layer, Index sequence) const {
    const std::unique_ptr<Fit>& fit = own(layer, sequence);
    return fit && !shares_subspace_ ? std::make_unique<Fit>(*fit) : nullptr;
  }
  void take_copy(Index layer, Index sequence, std::unique_ptr<Fit> copy) noexcept {
    if (!shares_subspace_) own(layer, sequence) = std::move(copy);
  }

  /// Takes what a file had for one sequence, unless that goes by what others have too.
  void replace(Index layer, Index sequence, std::unique_ptr<Fit> fit) {
    const Lock lock = guard(layer);
    const Index owner = this->owner(layer, sequence);
    if (owner != no_owner && owner != sequence) return;
    // Others may go by a subspace that the file has nothing to put in place of.
    if (fit || !shares_subspace_ || sequences_ == 1) own(layer, sequence) = std::move(fit);
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
  const Fit* effective_fit(Index layer, Index sequence) const {
    const Index first = first_fitted(layer, sequence);
    return first == no_owner ? nullptr : of(layer, first);
  }

  /// Guards the fits of a layer where several sequences go by the same one, and does nothing where
  /// each has its own.
  Lock guard(Index layer) const {
    const bool shared = shares_subspace_ || is_calibrated();
    return shared ? Lock(locks_[static_cast<std::size_t>(layer)]) : Lock();
  }

  /// Bytes; `counted` says what sequences share.
  MemoryUsage memory(Counted& counted) const {
    MemoryUsage usage;
    usage.bookkeeping = static_cast<Index>(formats_.size() * sizeof(std::mutex)) +
                        static_cast<Index>(own_.capacity() * sizeof(own_[0]) +
                                           formats_.capacity() * sizeof(formats_[0]) +
                                           blank_plans_.capacity() * sizeof(blank_plans_[0]));
    for (const std::unique_ptr<Fit>& fit : own_)
      if (fit) usage.subspace += Index{sizeof(Fit)} + fit->bytes(counted);
    for (const Fit& fit : calibrated_) usage.subspace += Index{sizeof(Fit)} + fit.bytes(counted);
    for (const auto& plan : blank_plans_)
      if (counted.insert(plan.get()).second) usage.bookkeeping += plan->bytes();
    return usage;
  }

 private:
  // Owners of a metric that are no sequence.
  static constexpr Index no_owner = -1, calibration = -2;

  // Queries of so many tokens tell of a prompt what it takes. More hardly change the metric, while
  // their moments take more memory than the codes of as many tokens.
  static constexpr Index enough_tokens = 1024;

  Index gathered(Index layer, const Fit& fit) const {
    return gathered_tokens(format(layer), fit.queries);
  }

  /// Whether queries that follow say enough for keys to go by.
  bool has_enough(Index layer, const Fit& fit) const {
    return gathered(layer, fit) >= FollowStep::enough;
  }

  /// Whether keys keep to the plan of `fit`, null for none, whatever queries of the prompt come:
  /// they were enough, or forgotten when the prompt was over.
  bool is_complete(Index layer, const Fit* fit) const {
    return fit != nullptr && fit->plan &&
           (fit->queries.empty() || gathered(layer, *fit) >= enough_tokens);
  }

  const LayerFormat& format(Index layer) const {
    return *formats_[static_cast<std::size_t>(layer)];
  }
  std::size_t index(Index layer, Index sequence) const {
    return static_cast<std::size_t>(layer * sequences_ + sequence);
  }
  std::unique_ptr<Fit>& own(Index layer, Index sequence) { return own_[index(layer, sequence)]; }
  const std::unique_ptr<Fit>& own(Index layer, Index sequence) const {
    return own_[index(layer, sequence)];
  }

  /// The sequence whose fit `sequence` quantizes with, were nothing calibrated.
  Index first_fitted(Index layer, Index sequence) const {
    if (!shares_subspace_) return own(layer, sequence) ? sequence : no_owner;
    for (Index s = 0; s < sequences_; ++s)
      if (own(layer, s)) return s;
    return no_owner;
  }
  Index owner(Index layer, Index sequence) const {
    return is_calibrated() ? calibration : first_fitted(layer, sequence);
  }

  /// A fit for queries to join in: a copy of `fit`, or from nothing.
  std::unique_ptr<Fit> continued(Index layer, const Fit* fit) const {
    auto copy = std::make_unique<Fit>();
    if (fit != nullptr) {
      copy->queries = fit->queries;
      copy->statistics = fit->statistics;
    }
    if (copy->queries.empty())
      copy->queries.assign(static_cast<std::size_t>(format(layer).kv_heads()),
                           GatheredQueries(format(layer).head_dim()));
    return copy;
  }

  /// A fit for queries to join in that follow those of `fit`, which keys that leave now use up.
  std::unique_ptr<Fit> following(Index layer, const Fit& fit, bool keys_leave) const {
    auto copy = std::make_unique<Fit>();
    if (fit.prompt_is_over() && !(keys_leave && has_enough(layer, fit)))
      copy->queries = fit.queries;
    else
      copy->queries.assign(static_cast<std::size_t>(format(layer).kv_heads()),
                           GatheredQueries::no_directions(format(layer).settings.subspace_dim,
                                                          format(layer).head_dim()));
    return copy;
  }

  /// Of a layer, under no metric.
  const Plan& blank_plan(Index layer) const {
    return blank_plans_[static_cast<std::size_t>(layer)];
  }

  bool shares_subspace_;  // Config::shared_svd
  double query_decay_;
  QueryGatherer<Scalar> gatherer_;
  Index sequences_;
  LayerFormats formats_;  // per layer
  OwnFits own_;
  std::vector<Fit> calibrated_;          // per layer, or empty
  std::unique_ptr<std::mutex[]> locks_;  // of each layer's fits
  std::vector<Plan> blank_plans_;        // per layer
};

}  // namespace squat::detail
