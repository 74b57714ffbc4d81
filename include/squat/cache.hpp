// The cache that an inference engine holds.
#pragma once

#include <memory>
#include <mutex>
#include <squat/attention.hpp>
#include <squat/snapshot_reader.hpp>
#include <utility>

namespace squat {

/// The keys and values of every layer of a transformer, quantized as SQuat does (arXiv 2503.24358).
///
/// Matrices are row-major [tokens, heads * head_dim]; a row is a token; queries and keys come after
/// position embedding unless ModelShape::rope says that the cache applies it. They are taken as
/// Eigen::Ref with an outer stride: an engine's buffer goes in through Eigen::Map without a copy.
///
/// Newest tokens are in a residual in full precision. A key leaves it with the whole block when
/// residual_length tokens are complete, a value (and with KeyScales::per_token a key) once
/// residual_length newer ones are there; each is quantized exactly once and its codes never change.
///
/// Every call checks its arguments and fails with squat::Error, the cache as it was.
///
/// Threads may call at the same time where no two of them touch the same layer of the same
/// sequence, or where those that do only read. What sequences share is guarded. A call touches the
/// layer and the sequence that it names; truncate(), fork(), and save() and load() of one sequence
/// touch all layers of theirs, of which fork() reads `from`; memory(), calibrate(), clear(),
/// set_executor(), and save() and load() of all touch everything.
///
/// @tparam Scalar float, double, Eigen::half or Eigen::bfloat16: what goes in, what comes out, and
///   what the residual is kept in.
/// @tparam KeyBits, ValueBits 2, 3, 4 or 8.
template <class Scalar, int KeyBits, int ValueBits = KeyBits>
class SQuatCache {
  static_assert(is_supported_scalar<Scalar>,
                "Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(is_supported_bits<KeyBits> && is_supported_bits<ValueBits>,
                "KeyBits and ValueBits must be 2, 3, 4 or 8");

 public:
  using Real = ComputeType<Scalar>;

  explicit SQuatCache(const ModelShape& shape, const Config& config = {}, Index sequences = 1)
      : shape_(shape), config_(config), sequences_(sequences) {
    check(shape, config);
    require(sequences >= 1, "sequences is ", sequences, "; it must be at least 1");
    even_blocks_ = std::make_shared<const std::vector<KeyBlock>>(kv_heads(), even_block());
    if (shape.rope.pairing != RopePairing::none)
      rope_ = std::make_shared<const RopeTable>(shape.rope, shape.head_dim);
    locks_ = std::make_unique<std::mutex[]>(static_cast<std::size_t>(shape.layers));
    blank_plan_ = std::make_shared<const KeyPlan<Scalar>>(
        even_blocks_,
        std::vector<ErrorFeedback<Real>>(kv_heads(), ErrorFeedback<Real>(shape.head_dim)), config);
    clear();
  }

  /// Attention work goes to `executor`, which outlives the cache; serial until one is set. Where
  /// several threads attend, it takes several calls of run() at the same time.
  void set_executor(Executor& executor) { executor_ = &executor; }

  /// From now on keys of all sequences are quantized under the metric of `moments`, and no prompt
  /// fits one, until clear(). The moments are of queries as Config::subspace_queries wants them.
  /// Bits per channel are still chosen by the keys of the first sequence that fills a block. Fails
  /// on another shape, moments without queries, or a cache that holds tokens.
  void calibrate(const QueryMoments& moments) {
    const ModelShape& shape = moments.shape();
    require(shape.layers == shape_.layers && shape.kv_heads == shape_.kv_heads &&
                shape.head_dim == shape_.head_dim,
            "moments are for ", shape.layers, " layers, ", shape.kv_heads, " kv heads of ",
            shape.head_dim, "; the cache has ", shape_.layers, ", ", shape_.kv_heads, " of ",
            shape_.head_dim);
    std::vector<KeyFit<Scalar>> fits(static_cast<std::size_t>(shape_.layers));
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      for (Index sequence = 0; sequence < sequences_; ++sequence)
        require(entry(layer, sequence).tokens.size() == 0, "calibrate: layer ", layer,
                " of sequence ", sequence, " holds tokens");
      for (Index head = 0; head < shape_.kv_heads; ++head) {
        require(moments.moment(layer, head).count() > 0, "moments of layer ", layer, ", kv head ",
                head, " have no queries");
        fits[static_cast<std::size_t>(layer)].moments.push_back(moments.moment(layer, head));
      }
    }
    calibrated_ = std::move(fits);
  }

  const ModelShape& shape() const { return shape_; }
  const Config& config() const { return config_; }
  Index sequences() const { return sequences_; }

  /// Appends tokens to `layer` of options.sequence. First quantizes what an earlier call left
  /// complete, so that attend() sees the new tokens in full precision.
  /// The queries of the first update of an empty sequence fit its subspace; options.fit asks for
  /// later ones to join in. keys, values: [tokens, kv_heads * head_dim]; queries: [tokens,
  /// query_heads * head_dim].
  void update(Index layer, MatrixView<Scalar> keys, MatrixView<Scalar> values,
              MatrixView<Scalar> queries, const CallOptions& options = {}) {
    Entry& target = entry(layer, options.sequence);
    check_new_tokens(keys, values, queries, options.mask);
    std::unique_ptr<KeyFit<Scalar>> fit;
    bool fits;
    {
      const Lock lock = lock_fits(layer);
      const Index owner = calibrated_.empty() ? fitted_by(layer, options.sequence) : calibration;
      fits = owner == -1 || options.fit == FitQueries::accumulate || config_.query_decay > 0 ||
             !target.tokens.has_valid();
      if (fits && (owner == -1 || owner == options.sequence)) fit = continued_fit(target);
    }
    if (fit && !take_in(*fit, target, queries, options.mask)) fit = nullptr;
    target.tokens.reserve(keys.rows());
    flush(layer, options);
    // Keys that come one by one keep to the metric of their row, or each would ask for a new plan.
    if (fit && target.fit && options.fit != FitQueries::accumulate && target.tokens.has_valid() &&
        target.tokens.fills_row())
      fit->plan = target.fit->plan;
    target.tokens.append(keys, values, options.mask);
    const Lock lock = lock_fits(layer);
    if (fit) {
      // Another sequence may have been first.
      const Index owner = fitted_by(layer, options.sequence);
      if (owner == -1 || owner == options.sequence) target.fit = std::move(fit);
    } else if (!fits && target.fit && target.fit->plan) {
      target.fit->forget();  // the prompt is over
    }
  }

  /// Causal attention of the newest queries.rows() tokens of the layer over all of it, or over as
  /// many of its tokens as shape().windows says, and the exact ones before them: row i belongs to
  /// token size - rows + i, or to options.position + i. Quantized tokens count as dequantized, the
  /// residual as it is. queries, out: [rows, query_heads * head_dim]. The row of a padding token is
  /// zero, and so is one that sees nothing. The cache knows its own padding: options.mask [rows]
  /// allows those queries to hold anything.
  void attend(Index layer, MatrixView<Scalar> queries, MutableMatrixView<Scalar> out,
              const CallOptions& options = {}) const {
    const Entry& source = entry(layer, options.sequence);
    const Index size = source.tokens.size();
    constexpr Index last_position = Index{1} << 48;
    require(options.position >= -1 && options.position <= last_position, "options.position is ",
            options.position, "; it must be 0 to ", last_position,
            ", or -1 for the newest tokens'");
    require(queries.rows() >= 1, "queries have no rows");
    if (options.position == -1) {
      require(size > 0, "attend: layer ", layer, " of sequence ", options.sequence, " is empty");
      require(queries.rows() <= size, "queries have ", queries.rows(), " rows; layer ", layer,
              " of sequence ", options.sequence, " has ", size, " tokens");
    }
    require(options.mask.empty() || options.mask.size() == queries.rows(), "options.mask has ",
            options.mask.size(), " entries; queries have ", queries.rows(), " rows");
    check_matrix("queries", queries, shape_.query_heads, unlimited, options.mask);
    check_output(queries, out);
    const Index first = options.position == -1 ? size - queries.rows() : options.position;
    require(source.tokens.seen(first).begin >= source.tokens.first(), "queries begin at position ",
            first, "; layer ", layer, " of sequence ", options.sequence,
            " has dropped what they see: with a window of ", shape_.window(layer),
            " they can begin at ", source.tokens.least_size() - 1, " or later");
    squat::attend(source.tokens, shape_, rope_.get(), config_.arithmetic,
                  QueryRows<Scalar>{queries, first, options.mask}, out, options.log_sum_exp,
                  *executor_);
  }

  /// Quantizes what the residual of the layer no longer has to hold, and drops what its window has
  /// left behind.
  void flush(Index layer, const CallOptions& options = {}) {
    LayerCache<Scalar>& tokens = entry(layer, options.sequence).tokens;
    tokens.flush(*plan(layer, options.sequence));
  }

  /// update, attend and flush: what an engine calls for each layer and each run of new tokens.
  /// Argument order is attention's: queries, keys, values.
  void attention(Index layer, MatrixView<Scalar> queries, MatrixView<Scalar> keys,
                 MatrixView<Scalar> values, MutableMatrixView<Scalar> out,
                 const CallOptions& options = {}) {
    check_output(queries, out);
    update(layer, keys, values, queries, options);
    attend(layer, queries, out, options);
    flush(layer, options);
  }

  /// Keys of the tokens that the layer holds, from first() on, as attention sees them
  /// [tokens, kv_heads * head_dim]; padding is zero. Where shape().rope is applied by the cache
  /// they are as stored, before it.
  Matrix<Scalar> keys(Index layer, const CallOptions& options = {}) const {
    return decoded(layer, options.sequence, &DecodedTokens<Real>::keys);
  }

  /// Values of the same tokens [tokens, kv_heads * head_dim]; padding is zero.
  Matrix<Scalar> values(Index layer, const CallOptions& options = {}) const {
    return decoded(layer, options.sequence, &DecodedTokens<Real>::values);
  }

  /// Tokens that the layer has taken in, padding included, and a window's dropped ones too: the
  /// next token has this position.
  Index size(Index layer, const CallOptions& options = {}) const {
    return entry(layer, options.sequence).tokens.size();
  }

  /// The first token that the layer still holds; 0 unless it has a window. flush() drops whole
  /// blocks of tokens behind the newest shape().window(layer) + residual_length. Exact tokens
  /// before it are held all the same, and seen.
  Index first(Index layer, const CallOptions& options = {}) const {
    return entry(layer, options.sequence).tokens.first();
  }

  /// Bytes allocated by the whole cache. What several sequences share counts once.
  MemoryUsage memory() const {
    MemoryUsage usage;
    Counted counted;
    usage.bookkeeping = Index{sizeof(*this)} +
                        static_cast<Index>((entries_.capacity() - entries_.size()) * sizeof(Entry));
    usage.bookkeeping += blank_plan_->bytes() + shape_.layers * Index{sizeof(std::mutex)};
    if (rope_) usage.bookkeeping += Index{sizeof(RopeTable)} + rope_->bytes();
    for (const Entry& entry : entries_) usage += entry.memory(counted);
    if (counted.insert(even_blocks_.get()).second)
      for (const KeyBlock& block : *even_blocks_) usage.bookkeeping += block.bookkeeping_bytes();
    for (const KeyFit<Scalar>& fit : calibrated_)
      usage.subspace += Index{sizeof(KeyFit<Scalar>)} + fit.bytes(counted);
    return usage;
  }

  /// Keeps the first `size` tokens of options.sequence in every layer, as speculative decoding
  /// does. What is quantized stays as it is: a block cut short keeps the codes of its first tokens,
  /// and tokens that follow begin a new block. Exact tokens, padding and the fit of the metric are
  /// those of the tokens that stay; without any valid token the next queries fit it anew.
  ///
  /// Fails if a layer has fewer tokens, or if it has dropped what the newest remaining token sees:
  /// `size` must be 0, or at least first(layer) + the layer's window where first(layer) > 0. A
  /// layer can always be cut back by residual_length from the longest that it has been at a flush()
  /// or update(). What remains is seen as if the others had never come.
  void truncate(Index size, const CallOptions& options = {}) {
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const LayerCache<Scalar>& tokens = entry(layer, options.sequence).tokens;
      require(size >= 0 && size <= tokens.size(), "size is ", size, "; layer ", layer,
              " of sequence ", options.sequence, " has ", tokens.size(), " tokens");
      require(size == 0 || size >= tokens.least_size(), "size is ", size, "; layer ", layer,
              " of sequence ", options.sequence, " has dropped what token ", size - 1,
              " sees: it must be 0, or at least ", tokens.least_size());
    }
    for (Index layer = 0; layer < shape_.layers; ++layer)
      entry(layer, options.sequence).tokens.truncate(size);
  }

  /// Makes sequence `to` a copy of sequence `from` in every layer, in place of whatever it held:
  /// for a prefix that several continuations have in common, for beams, for parallel samples. What
  /// is quantized is shared, at the cost of a few bytes a block; residual and exact tokens are
  /// copied. Neither sequence ever shows what happens to the other. With shared_svd the
  /// subspace of a layer stays with the sequence that fitted it; without, `to` goes on under a copy
  /// of that of `from`. When memory runs out (std::bad_alloc) `to` is as it was.
  void fork(Index from, Index to) {
    check_sequence("from", from);
    check_sequence("to", to);
    if (from == to) return;
    std::vector<Entry> copies;
    copies.reserve(static_cast<std::size_t>(shape_.layers));
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const Entry& source = entry(layer, from);
      copies.emplace_back(source.tokens, nullptr);
      if (!config_.shared_svd && source.fit)
        copies.back().fit = std::make_unique<KeyFit<Scalar>>(*source.fit);
    }
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      Entry& copy = copies[static_cast<std::size_t>(layer)];
      entry(layer, to).tokens = std::move(copy.tokens);
      if (!config_.shared_svd) entry(layer, to).fit = std::move(copy.fit);
    }
  }

  /// Empties every sequence and forgets every subspace.
  void clear() {
    entries_ = empty_entries(sequences_);
    calibrated_.clear();
  }

  /// Writes all sequences, to be loaded again: a prompt that was read once, or work that goes on
  /// another day. The file (SnapshotFormat) has the same bytes on every machine; what several
  /// sequences share is written once. Fails where the stream does.
  void save(std::ostream& out) const { save(out, 0, sequences_); }

  /// Writes one sequence, and what its keys are quantized with, as a cache of its own.
  void save(std::ostream& out, Index sequence) const {
    check_sequence("sequence", sequence);
    save(out, sequence, 1);
  }

  /// Goes on where a saved cache stopped, in place of all that is held: the same keys, values and
  /// attention, bit for bit, and the same codes for what is appended later. Reads no further than
  /// the file goes. Fails on a file of another Scalar, shape, configuration or number of sequences,
  /// naming what differs, and on one that is cut short or altered; whoever made the file, what is
  /// loaded is sound. When it fails, std::bad_alloc included, the cache is as it was.
  void load(std::istream& in) {
    Loaded file = read(in, sequences_);
    entries_ = std::move(file.entries);
    calibrated_ = std::move(file.calibrated);
  }

  /// The same for one sequence, from a file that holds one, in place of what `sequence` holds. What
  /// is appended later is quantized as in the file, unless the cache is calibrated or, with
  /// shared_svd, goes by the subspace of another sequence.
  void load(std::istream& in, Index sequence) {
    check_sequence("sequence", sequence);
    Loaded file = read(in, 1);
    for (std::size_t layer = 0; layer < file.calibrated.size(); ++layer)
      file.entries[layer].fit = std::make_unique<KeyFit<Scalar>>(std::move(file.calibrated[layer]));
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const Lock lock = lock_fits(layer);
      const Index owner = calibrated_.empty() ? fitted_by(layer, sequence) : calibration;
      Entry& source = file.entries[static_cast<std::size_t>(layer)];
      Entry& target = entry(layer, sequence);
      target.tokens = std::move(source.tokens);
      if (owner != -1 && owner != sequence) continue;
      // Others may go by a subspace that the file has nothing to put in place of.
      if (source.fit || !config_.shared_svd || sequences_ == 1) target.fit = std::move(source.fit);
    }
  }

 private:
  struct Entry {
    Entry(const ModelShape& shape, Index layer, const Config& config, const KeyBlock& key_block,
          int value_bits)
        : tokens(shape, layer, config, key_block, value_bits) {}
    Entry(LayerCache<Scalar> tokens, std::unique_ptr<KeyFit<Scalar>> fit)
        : tokens(std::move(tokens)), fit(std::move(fit)) {}

    MemoryUsage memory(Counted& counted) const {
      MemoryUsage usage = tokens.memory(counted);
      if (fit) usage.subspace = Index{sizeof(KeyFit<Scalar>)} + fit->bytes(counted);
      usage.bookkeeping += Index{sizeof(Entry)} - Index{sizeof(tokens)};
      return usage;
    }

    LayerCache<Scalar> tokens;
    std::unique_ptr<KeyFit<Scalar>> fit;
  };

  /// What a file holds.
  struct Loaded {
    std::vector<Entry> entries;              // [layers, sequences]
    std::vector<KeyFit<Scalar>> calibrated;  // per layer, or empty
  };

  static Executor& serial() {
    static SerialExecutor executor;
    return executor;
  }

  static constexpr Index calibration = -2;  // owner of a metric that no sequence fitted
  static constexpr double unlimited = std::numeric_limits<double>::infinity();

  void check_sequence(const char* name, Index sequence) const {
    require(sequence >= 0 && sequence < sequences_, name, " is ", sequence,
            "; the cache has sequences 0 to ", sequences_ - 1);
  }

  std::size_t index(Index layer, Index sequence) const {
    require(layer >= 0 && layer < shape_.layers, "layer is ", layer, "; the cache has layers 0 to ",
            shape_.layers - 1);
    check_sequence("options.sequence", sequence);
    return static_cast<std::size_t>(layer * sequences_ + sequence);
  }
  Entry& entry(Index layer, Index sequence) { return entries_[index(layer, sequence)]; }
  const Entry& entry(Index layer, Index sequence) const { return entries_[index(layer, sequence)]; }

  /// The sequence whose subspace `sequence` quantizes with, or -1.
  Index fitted_by(Index layer, Index sequence) const {
    if (!config_.shared_svd) return entry(layer, sequence).fit ? sequence : -1;
    for (Index s = 0; s < sequences_; ++s)
      if (entry(layer, s).fit) return s;
    return -1;
  }

  int value_bits() const { return config_.value_bits == 0 ? ValueBits : config_.value_bits; }
  double key_bits() const { return config_.key_bits == 0 ? KeyBits : config_.key_bits; }

  /// The configuration with the widths that result.
  Config stored_config() const {
    Config config = config_;
    config.key_bits = key_bits();
    config.value_bits = value_bits();
    return config;
  }

  std::vector<Entry> empty_entries(Index sequences) const {
    const KeyBlock key_block = even_block();
    std::vector<Entry> entries;
    entries.reserve(static_cast<std::size_t>(shape_.layers * sequences));
    for (Index i = 0; i < shape_.layers * sequences; ++i)
      entries.emplace_back(shape_, i / sequences, config_, key_block, value_bits());
    return entries;
  }

  void save(std::ostream& out, Index first, Index count) const {
    SnapshotWriter<Scalar> file(out, shape_, stored_config(), count, !calibrated_.empty());
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      file.begin_layer();
      const Lock lock = lock_fits(layer);
      if (!calibrated_.empty()) file.fit(&calibrated_[static_cast<std::size_t>(layer)]);
      for (Index sequence = first; sequence < first + count; ++sequence) {
        file.tokens(entry(layer, sequence).tokens);
        // A sequence alone takes along what it is quantized with, whosever it is.
        const Index owner = count == 1 ? fitted_by(layer, sequence) : sequence;
        file.fit(owner == -1 ? nullptr : entry(layer, owner).fit.get());
      }
    }
    file.finish();
  }

  Loaded read(std::istream& in, Index sequences) const {
    SnapshotReader<Scalar> file(in, shape_, stored_config(), sequences, even_blocks_);
    Loaded loaded{empty_entries(sequences), {}};
    auto entry = loaded.entries.begin();
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      file.begin_layer();
      if (file.calibrated()) {
        std::unique_ptr<KeyFit<Scalar>> fit = file.fit();
        require(fit != nullptr, "the file is calibrated but for layer ", layer);
        loaded.calibrated.push_back(std::move(*fit));
      }
      for (Index sequence = 0; sequence < sequences; ++sequence, ++entry) {
        file.tokens(entry->tokens);
        entry->fit = file.fit();
      }
    }
    file.finish();
    return loaded;
  }

  /// A block of keys of which nothing is known.
  KeyBlock even_block() const {
    return KeyBlock(shape_.head_dim, even_bits(shape_.head_dim, key_bits()), config_);
  }

  /// What the keys that leave `sequence` now are quantized with. Without a fit they are all padding
  /// or exact.
  std::shared_ptr<const KeyPlan<Scalar>> plan(Index layer, Index sequence) {
    const Lock lock = lock_fits(layer);
    const Index owner = fitted_by(layer, sequence);
    if (calibrated_.empty() && owner == -1) return blank_plan_;
    KeyFit<Scalar>& fit = calibrated_.empty() ? *entry(layer, owner).fit
                                              : calibrated_[static_cast<std::size_t>(layer)];
    const LayerCache<Scalar>& tokens = entry(layer, sequence).tokens;
    if (fit.plan) return fit.plan;
    if (tokens.leaving_keys() == 0) return blank_plan_;  // which packs nothing then
    std::vector<KeyStatistics> statistics = fit.statistics;
    if (statistics.empty()) statistics.assign(kv_heads(), KeyStatistics(shape_.head_dim));
    tokens.describe(statistics);
    fit.plan = make_key_plan<Scalar>(fit.moments, statistics, even_blocks_, key_bits(), config_);
    fit.statistics = std::move(statistics);
    return fit.plan;
  }

  /// Guards the fits of a layer where several sequences go by the same one, and does nothing where
  /// each has its own.
  using Lock = std::unique_lock<std::mutex>;
  Lock lock_fits(Index layer) const {
    const bool shared = config_.shared_svd || !calibrated_.empty();
    return shared ? Lock(locks_[static_cast<std::size_t>(layer)]) : Lock();
  }

  std::size_t kv_heads() const { return static_cast<std::size_t>(shape_.kv_heads); }

  /// A copy of the fit of `entry` for queries to join in; from nothing if the sequence has no valid
  /// token.
  std::unique_ptr<KeyFit<Scalar>> continued_fit(const Entry& entry) const {
    auto fit = std::make_unique<KeyFit<Scalar>>();
    if (entry.tokens.has_valid() && entry.fit) {
      fit->moments = entry.fit->moments;
      fit->statistics = entry.fit->statistics;
    }
    if (fit->moments.empty()) fit->moments.assign(kv_heads(), SecondMoment(shape_.head_dim));
    return fit;
  }

  /// Adds the queries of new tokens of `entry` to a fit; returns whether it has any now. Exact
  /// tokens do not count.
  bool take_in(KeyFit<Scalar>& fit, const Entry& entry, const MatrixView<Scalar>& queries,
               const Mask& mask) const {
    const Index d = shape_.head_dim;
    std::vector<std::uint8_t> counts(static_cast<std::size_t>(queries.rows()));
    Index exact = entry.tokens.exact_to_come(), counted = 0;
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
        RopeWalk<Real>(*rope_).rotate(entry.tokens.size(), rotated.data(), rotated.rows(), d);
        moment.add<Real>(rotated, counts);
      } else {
        moment.add<Scalar>(own, counts);
      }
    }
    return fit.moments.front().count() > 0;
  }

  void check_new_tokens(const MatrixView<Scalar>& keys, const MatrixView<Scalar>& values,
                        const MatrixView<Scalar>& queries, const Mask& mask) const {
    require(keys.rows() >= 1, "keys have no rows; an update has at least one token");
    require(values.rows() == keys.rows(), "values have ", values.rows(), " rows; keys have ",
            keys.rows());
    require(queries.rows() == keys.rows(), "queries have ", queries.rows(), " rows; keys have ",
            keys.rows());
    require(mask.empty() || mask.size() == keys.rows(), "options.mask has ", mask.size(),
            " entries; the update has ", keys.rows(), " tokens");
    const double limit = largest_storable(config_.scale_bits);
    check_matrix("keys", keys, shape_.kv_heads, limit, mask);
    check_matrix("values", values, shape_.kv_heads, limit, mask);
    check_matrix("queries", queries, shape_.query_heads, unlimited, mask);
  }

  /// Width, and every element of a valid row finite and at most `limit` in magnitude.
  void check_matrix(const char* name, const MatrixView<Scalar>& matrix, Index heads, double limit,
                    const Mask& mask = {}) const {
    require(matrix.cols() == heads * shape_.head_dim, name, " have ", matrix.cols(),
            " columns; the shape asks for ", heads, " heads of ", shape_.head_dim);
    const Real largest =
        static_cast<Real>(std::min(limit, static_cast<double>(std::numeric_limits<Real>::max())));
    for (Index row = 0; row < matrix.rows(); ++row) {
      if (!mask[row]) continue;
      const auto magnitudes = matrix.row(row).template cast<Real>().array().abs();
      if ((magnitudes <= largest).all()) continue;
      for (Index column = 0; column < matrix.cols(); ++column) {
        const Real value = static_cast<Real>(matrix(row, column));
        require(std::abs(value) <= largest, name, " row ", row, " column ", column, " is ", value,
                "; it must be finite",
                limit == unlimited ? ""
                : config_.scale_bits != 32
                    ? " and at most 65504 in magnitude (config.scale_bits = 32 allows more)"
                    : " and at most 1e18 in magnitude");
      }
    }
  }

  void check_output(const MatrixView<Scalar>& queries, const MutableMatrixView<Scalar>& out) const {
    require(out.rows() == queries.rows() && out.cols() == queries.cols(), "out is [", out.rows(),
            ", ", out.cols(), "]; queries are [", queries.rows(), ", ", queries.cols(), "]");
  }

  Matrix<Scalar> decoded(Index layer, Index sequence,
                         Matrix<Real> DecodedTokens<Real>::*what) const {
    const LayerCache<Scalar>& source = entry(layer, sequence).tokens;
    const Index d = shape_.head_dim;
    const Index first = source.first();
    Matrix<Scalar> all(source.size() - first, shape_.kv_heads * d);
    for (Index head = 0; head < shape_.kv_heads; ++head)
      for_decoded_tokens(source, head, {first, source.size()},
                         [&](const DecodedTokens<Real>& tokens) {
                           auto target = all.block(tokens.first - first, head * d, tokens.count, d);
                           target = (tokens.*what).topRows(tokens.count).template cast<Scalar>();
                           for (Index t = 0; t < tokens.count; ++t)
                             if (!tokens.valid[static_cast<std::size_t>(t)])
                               target.row(t).setZero();
                         });
    return all;
  }

  ModelShape shape_;
  Config config_;
  Index sequences_;
  std::vector<Entry> entries_;                                // [layers, sequences]
  std::vector<KeyFit<Scalar>> calibrated_;                    // per layer, or empty
  std::unique_ptr<std::mutex[]> locks_;                       // of each layer's fits
  std::shared_ptr<const std::vector<KeyBlock>> even_blocks_;  // of keys of which nothing is known
  std::shared_ptr<const KeyPlan<Scalar>> blank_plan_;
  std::shared_ptr<const RopeTable> rope_;  // null where positions are the caller's affair
  Executor* executor_ = &serial();
};

}  // namespace squat
