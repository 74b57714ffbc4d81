// The cache that an inference engine holds.
#pragma once

#include <memory>
#include <squat/detail/attention/attention.hpp>
#include <squat/detail/io/cache_file.hpp>
#include <squat/detail/layer/call_checks.hpp>
#include <squat/detail/layer/layer_writer.hpp>
#include <squat/executor.hpp>
#include <squat/query_moments.hpp>
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
  static_assert(detail::is_supported_bits<KeyBits> && detail::is_supported_bits<ValueBits>,
                "KeyBits and ValueBits must be 2, 3, 4 or 8");

 public:
  using Real = ComputeType<Scalar>;

  explicit SQuatCache(const ModelShape& shape, const Config& config = {}, Index sequences = 1)
      : shape_(checked(shape, config, sequences)),
        config_(config),
        sequences_(sequences),
        rope_(shape.rope.pairing == RopePairing::none
                  ? nullptr
                  : std::make_shared<const detail::RopeTable>(shape.rope, shape.head_dim)),
        formats_(detail::layer_formats(shape, stored_config())),
        fits_(shape, config, sequences, formats_, rope_),
        layers_(empty_layers(sequences)),
        workspaces_(std::make_unique<detail::WorkspacePool<Scalar>>()) {}

  /// Attention work goes to `executor`, which outlives the cache; serial until one is set. Where
  /// several threads attend, it takes several calls of run() at the same time.
  void set_executor(Executor& executor) { executor_ = &executor; }

  /// From now on keys of all sequences are quantized under the metric of `moments`, and no prompt
  /// fits one, until clear(). The moments are of queries as Config::subspace_queries wants them.
  /// Bits per channel are still chosen by the keys of the first sequence that fills a block. Fails
  /// on another shape, moments without queries, or a cache that holds tokens.
  void calibrate(const QueryMoments& moments) {
    for (Index layer = 0; layer < shape_.layers; ++layer)
      for (Index sequence = 0; sequence < sequences_; ++sequence)
        require(tokens(layer, sequence).size() == 0, "calibrate: layer ", layer, " of sequence ",
                sequence, " holds tokens");
    const ModelShape& shape = moments.shape();
    require(shape.layers == shape_.layers && shape.kv_heads == shape_.kv_heads &&
                shape.head_dim == shape_.head_dim,
            "moments are for ", shape.layers, " layers, ", shape.kv_heads, " kv heads of ",
            shape.head_dim, "; the cache has ", shape_.layers, ", ", shape_.kv_heads, " of ",
            shape_.head_dim);
    std::vector<std::vector<SecondMoment>> by_layer(static_cast<std::size_t>(shape_.layers));
    for (Index layer = 0; layer < shape_.layers; ++layer)
      for (Index head = 0; head < shape_.kv_heads; ++head) {
        require(moments.moment(layer, head).count() > 0, "moments of layer ", layer, ", kv head ",
                head, " have no queries");
        by_layer[static_cast<std::size_t>(layer)].push_back(moments.moment(layer, head));
      }
    fits_.calibrate(std::move(by_layer));
  }

  const ModelShape& shape() const { return shape_; }
  const Config& config() const { return config_; }
  Index sequences() const { return sequences_; }

  /// Appends tokens to `layer` of options.sequence. First quantizes what an earlier call left
  /// complete, so that attend() sees the new tokens in full precision.
  /// The queries of the first update of an empty sequence fit its subspace; options.fit asks for
  /// later ones to join in. keys, values: [tokens, kv_heads * head_dim]; queries: [tokens,
  /// query_heads * head_dim]. Honours options.mask and options.fit.
  void update(Index layer, const Queries<Scalar>& queries, const Keys<Scalar>& keys,
              const Values<Scalar>& values, const CallOptions& options = {}) {
    detail::Honours{true, true}.check(options, "update");
    append(layer, &queries.matrix(), keys.matrix(), values.matrix(), options);
  }

  /// update() without queries, where none is needed: in a cache that is calibrated, or whose
  /// config().squat_lambda is 0. Fails in any other. Honours options.mask.
  void update(Index layer, const Keys<Scalar>& keys, const Values<Scalar>& values,
              const CallOptions& options = {}) {
    detail::Honours{true}.check(options, "update without queries");
    require(config_.squat_lambda == 0 || fits_.is_calibrated(),
            "update has no queries; the cache is not calibrated, and config.squat_lambda is ",
            config_.squat_lambda, ", not 0");
    append(layer, nullptr, keys.matrix(), values.matrix(), options);
  }

  /// Causal attention of the newest queries.rows() tokens of the layer over all of it, or over as
  /// many of its tokens as shape().windows says, and the full-precision ones before them: row i
  /// belongs to token size - rows + i, or to options.position + i. Quantized tokens count as
  /// dequantized, the residual as it is. queries, out: [rows, query_heads * head_dim]. The row of a
  /// padding token is zero, and so is one that sees nothing. The cache knows its own padding:
  /// options.mask [rows] allows those queries to hold anything. Honours options.mask,
  /// options.position and options.log_sum_exp.
  void attend(Index layer, MatrixView<Scalar> queries, MutableMatrixView<Scalar> out,
              const CallOptions& options = {}) const {
    detail::Honours{true, false, true, true}.check(options, "attend");
    checks().queries(queries, options.mask);
    checks().output(queries, out);
    attend_checked(layer, queries, out, options);
  }

  /// Quantizes what the residual of the layer no longer has to hold, and drops what its window has
  /// left behind. Honours options.sequence alone.
  void flush(Index layer, const CallOptions& options = {}) {
    detail::Honours{}.check(options, "flush");
    writer(layer, options.sequence).flush();
  }

  /// update, attend and flush: what an engine calls for each layer and each run of new tokens.
  /// Honours options.mask, options.fit and options.log_sum_exp.
  void attention(Index layer, const Queries<Scalar>& queries, const Keys<Scalar>& keys,
                 const Values<Scalar>& values, MutableMatrixView<Scalar> out,
                 const CallOptions& options = {}) {
    detail::Honours{true, true, false, true}.check(options, "attention");
    checks().output(queries.matrix(), out);
    append(layer, &queries.matrix(), keys.matrix(), values.matrix(), options);
    attend_checked(layer, queries.matrix(), out, options);
    writer(layer, options.sequence).flush();
  }

  /// Keys of the tokens that the layer holds, from first() on, as attention sees them
  /// [tokens, kv_heads * head_dim]; padding is zero. Where shape().rope is applied by the cache
  /// they are as stored, before it.
  Matrix<Scalar> keys(Index layer, const CallOptions& options = {}) const {
    detail::Honours{}.check(options, "keys");
    return detail::read_back(tokens(layer, options.sequence).view(),
                             &detail::DequantizedTokens<Real>::keys);
  }

  /// Values of the same tokens [tokens, kv_heads * head_dim]; padding is zero.
  Matrix<Scalar> values(Index layer, const CallOptions& options = {}) const {
    detail::Honours{}.check(options, "values");
    return detail::read_back(tokens(layer, options.sequence).view(),
                             &detail::DequantizedTokens<Real>::values);
  }

  /// Tokens that the layer has taken in, padding included, and a window's dropped ones too: the
  /// next token has this position.
  Index size(Index layer, const CallOptions& options = {}) const {
    detail::Honours{}.check(options, "size");
    return tokens(layer, options.sequence).size();
  }

  /// The first token that the layer still holds; 0 unless it has a window. flush() drops whole
  /// blocks of tokens behind the newest shape().window(layer) + residual_length. Exact tokens
  /// before it are held all the same, and visible.
  Index first(Index layer, const CallOptions& options = {}) const {
    detail::Honours{}.check(options, "first");
    return tokens(layer, options.sequence).first();
  }

  /// Bytes allocated by the whole cache. What several sequences share counts once.
  MemoryUsage memory() const {
    MemoryUsage usage;
    detail::Counted counted;
    usage.bookkeeping =
        Index{sizeof(*this)} + static_cast<Index>((layers_.capacity() - layers_.size()) *
                                                  sizeof(detail::LayerStore<Scalar>));
    if (rope_) usage.bookkeeping += Index{sizeof(detail::RopeTable)} + rope_->bytes();
    for (const detail::LayerStore<Scalar>& layer : layers_) usage += layer.memory(counted);
    usage.bookkeeping += static_cast<Index>(formats_.capacity() * sizeof(formats_[0]));
    usage += fits_.memory(counted);
    usage.workspace = workspaces_->bytes();
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
  /// or update(). What remains is visible as if the others had never come.
  void truncate(Index size, const CallOptions& options = {}) {
    detail::Honours{}.check(options, "truncate");
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const detail::LayerStore<Scalar>& target = tokens(layer, options.sequence);
      require(size >= 0 && size <= target.size(), "size is ", size, "; layer ", layer,
              " of sequence ", options.sequence, " has ", target.size(), " tokens");
      require(size == 0 || size >= target.least_size(), "size is ", size, "; layer ", layer,
              " of sequence ", options.sequence, " has dropped what token ", size - 1,
              " sees: it must be 0, or at least ", target.least_size());
    }
    for (Index layer = 0; layer < shape_.layers; ++layer)
      tokens(layer, options.sequence).truncate(size);
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
    std::vector<detail::LayerStore<Scalar>> copies;
    typename detail::KeyFits<Scalar>::OwnFits fits;
    copies.reserve(static_cast<std::size_t>(shape_.layers));
    fits.reserve(static_cast<std::size_t>(shape_.layers));
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      copies.push_back(tokens(layer, from));
      fits.push_back(fits_.copy(layer, from));
    }
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      tokens(layer, to) = std::move(copies[static_cast<std::size_t>(layer)]);
      fits_.take_copy(layer, to, std::move(fits[static_cast<std::size_t>(layer)]));
    }
  }

  /// Empties every sequence, forgets every subspace, and gives back the memory of calls.
  void clear() {
    auto workspaces = std::make_unique<detail::WorkspacePool<Scalar>>();
    layers_ = empty_layers(sequences_);
    fits_.clear();
    workspaces_ = std::move(workspaces);
  }

  /// Writes all sequences, to be loaded again: a prompt that was read once, or work that goes on
  /// another day. The file (SnapshotFormat) has the same bytes on every machine; what several
  /// sequences share is written once. Fails where the stream does.
  void save(std::ostream& out) const {
    detail::write_cache(out, shape_, stored_config(), layers_, fits_, 0, sequences_);
  }

  /// Writes one sequence, and what its keys are quantized with, as a cache of its own.
  void save(std::ostream& out, Index sequence) const {
    check_sequence("sequence", sequence);
    detail::write_cache(out, shape_, stored_config(), layers_, fits_, sequence, 1);
  }

  /// Goes on where a saved cache stopped, in place of all that is held: the same keys, values and
  /// attention, bit for bit, and the same codes for what is appended later. Reads no further than
  /// the file goes. Fails on a file of another Scalar, shape, configuration or number of sequences,
  /// naming what differs, and on one that is cut short or altered; whoever made the file, what is
  /// loaded is sound. When it fails, std::bad_alloc included, the cache is as it was.
  void load(std::istream& in) {
    auto file = detail::read_cache<Scalar>(in, shape_, stored_config(), formats_, sequences_);
    layers_ = std::move(file.layers);
    fits_.replace(std::move(file.fits), std::move(file.calibrated));
  }

  /// Loads one sequence, as load() of all does, from a file that holds one, in place of what
  /// `sequence` holds. What is appended later is quantized as in the file, unless the cache is
  /// calibrated or, with shared_svd, goes by the subspace of another sequence.
  void load(std::istream& in, Index sequence) {
    check_sequence("sequence", sequence);
    auto file = detail::read_cache<Scalar>(in, shape_, stored_config(), formats_, 1);
    for (std::size_t layer = 0; layer < file.calibrated.size(); ++layer)
      file.fits[layer] = std::make_unique<detail::KeyFit<Real>>(std::move(file.calibrated[layer]));
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const auto at = static_cast<std::size_t>(layer);
      tokens(layer, sequence) = std::move(file.layers[at]);
      fits_.replace(layer, sequence, std::move(file.fits[at]));
    }
  }

 private:
  static Executor& serial() {
    static SerialExecutor executor;
    return executor;
  }

  static const ModelShape& checked(const ModelShape& shape, const Config& config, Index sequences) {
    detail::check(shape, config);
    require(sequences >= 1, "sequences is ", sequences, "; it must be at least 1");
    return shape;
  }

  detail::CallChecks<Scalar> checks() const { return {shape_, config_.scale_bits}; }

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
  detail::LayerStore<Scalar>& tokens(Index layer, Index sequence) {
    return layers_[index(layer, sequence)];
  }
  const detail::LayerStore<Scalar>& tokens(Index layer, Index sequence) const {
    return layers_[index(layer, sequence)];
  }

  /// The configuration with the widths that result.
  Config stored_config() const {
    Config config = config_;
    if (config.key_bits == 0) config.key_bits = KeyBits;
    if (config.value_bits == 0) config.value_bits = ValueBits;
    for (LayerBits& bits : config.layer_bits) {
      if (bits.keys == 0) bits.keys = config.key_bits;
      if (bits.values == 0) bits.values = config.value_bits;
    }
    return config;
  }

  std::vector<detail::LayerStore<Scalar>> empty_layers(Index sequences) const {
    std::vector<detail::LayerStore<Scalar>> layers;
    layers.reserve(static_cast<std::size_t>(shape_.layers * sequences));
    for (const auto& format : formats_)
      for (Index sequence = 0; sequence < sequences; ++sequence) layers.emplace_back(format);
    return layers;
  }

  detail::LayerWriter<Scalar> writer(Index layer, Index sequence) {
    return {tokens(layer, sequence), fits_, layer, sequence};
  }

  /// update(); `queries` is null where there are none.
  void append(Index layer, const MatrixView<Scalar>* queries, const MatrixView<Scalar>& keys,
              const MatrixView<Scalar>& values, const CallOptions& options) {
    auto target = writer(layer, options.sequence);
    checks().new_tokens(keys, values, queries, options.mask);
    target.append(keys, values, queries, options);
  }

  /// attend() of queries and out whose numbers and shapes are checked.
  void attend_checked(Index layer, const MatrixView<Scalar>& queries,
                      MutableMatrixView<Scalar>& out, const CallOptions& options) const {
    const detail::LayerStore<Scalar>& source = tokens(layer, options.sequence);
    const Index size = source.size();
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
    const Index first = options.position == -1 ? size - queries.rows() : options.position;
    const detail::QueryRows<Scalar> rows{queries, first, shape_.window(layer), options.mask};
    require(rows.visible(0).begin >= source.first(), "queries begin at position ", first,
            "; layer ", layer, " of sequence ", options.sequence,
            " has dropped what they see: with a window of ", shape_.window(layer),
            " they can begin at ", source.least_size() - 1, " or later");
    const typename detail::WorkspacePool<Scalar>::Lease workspace(*workspaces_);
    const detail::LayerView<Scalar> view = source.view();
    detail::attend(view, shape_, rope_.get(), config_.arithmetic, rows, out, options.log_sum_exp,
                   *executor_, *workspace);
  }

  ModelShape shape_;
  Config config_;
  Index sequences_;
  std::shared_ptr<const detail::RopeTable> rope_;  // null where the caller applies positions
  detail::LayerFormats formats_;                   // per layer
  detail::KeyFits<Scalar> fits_;
  std::vector<detail::LayerStore<Scalar>> layers_;  // [layers, sequences]
  std::unique_ptr<detail::WorkspacePool<Scalar>> workspaces_;
  Executor* executor_ = &serial();
};

}  // namespace squat
