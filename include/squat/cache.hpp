// The cache that an inference engine holds.
#pragma once

#include <memory>
#include <squat/attention.hpp>
#include <squat/call_checks.hpp>
#include <squat/key_fits.hpp>
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
      : shape_(checked(shape, config, sequences)),
        config_(config),
        sequences_(sequences),
        rope_(shape.rope.pairing == RopePairing::none
                  ? nullptr
                  : std::make_shared<const RopeTable>(shape.rope, shape.head_dim)),
        fits_(shape, stored_config(), sequences, rope_),
        layers_(empty_layers(sequences)) {}

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
    fits_.calibrate(moments);
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
    LayerCache<Scalar>& target = tokens(layer, options.sequence);
    checks().new_tokens(keys, values, queries, options.mask);
    auto joining = fits_.join(layer, options.sequence, target, queries, options);
    target.reserve(keys.rows());
    flush(layer, options);
    target.append(keys, values, options.mask);
    fits_.settle(layer, options.sequence, target, std::move(joining));
  }

  /// Causal attention of the newest queries.rows() tokens of the layer over all of it, or over as
  /// many of its tokens as shape().windows says, and the exact ones before them: row i belongs to
  /// token size - rows + i, or to options.position + i. Quantized tokens count as dequantized, the
  /// residual as it is. queries, out: [rows, query_heads * head_dim]. The row of a padding token is
  /// zero, and so is one that sees nothing. The cache knows its own padding: options.mask [rows]
  /// allows those queries to hold anything.
  void attend(Index layer, MatrixView<Scalar> queries, MutableMatrixView<Scalar> out,
              const CallOptions& options = {}) const {
    const LayerCache<Scalar>& source = tokens(layer, options.sequence);
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
    require(options.mask.empty() || options.mask.size() == queries.rows(), "options.mask has ",
            options.mask.size(), " entries; queries have ", queries.rows(), " rows");
    checks().queries(queries, options.mask);
    checks().output(queries, out);
    const Index first = options.position == -1 ? size - queries.rows() : options.position;
    require(source.seen(first).begin >= source.first(), "queries begin at position ", first,
            "; layer ", layer, " of sequence ", options.sequence,
            " has dropped what they see: with a window of ", shape_.window(layer),
            " they can begin at ", source.least_size() - 1, " or later");
    squat::attend(source, shape_, rope_.get(), config_.arithmetic,
                  QueryRows<Scalar>{queries, first, options.mask}, out, options.log_sum_exp,
                  *executor_);
  }

  /// Quantizes what the residual of the layer no longer has to hold, and drops what its window has
  /// left behind.
  void flush(Index layer, const CallOptions& options = {}) {
    LayerCache<Scalar>& target = tokens(layer, options.sequence);
    target.flush(*fits_.plan(layer, options.sequence, target));
  }

  /// update, attend and flush: what an engine calls for each layer and each run of new tokens.
  /// Argument order is attention's: queries, keys, values.
  void attention(Index layer, MatrixView<Scalar> queries, MatrixView<Scalar> keys,
                 MatrixView<Scalar> values, MutableMatrixView<Scalar> out,
                 const CallOptions& options = {}) {
    checks().output(queries, out);
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
    return tokens(layer, options.sequence).size();
  }

  /// The first token that the layer still holds; 0 unless it has a window. flush() drops whole
  /// blocks of tokens behind the newest shape().window(layer) + residual_length. Exact tokens
  /// before it are held all the same, and seen.
  Index first(Index layer, const CallOptions& options = {}) const {
    return tokens(layer, options.sequence).first();
  }

  /// Bytes allocated by the whole cache. What several sequences share counts once.
  MemoryUsage memory() const {
    MemoryUsage usage;
    Counted counted;
    usage.bookkeeping =
        Index{sizeof(*this)} +
        static_cast<Index>((layers_.capacity() - layers_.size()) * sizeof(LayerCache<Scalar>));
    if (rope_) usage.bookkeeping += Index{sizeof(RopeTable)} + rope_->bytes();
    for (const LayerCache<Scalar>& layer : layers_) usage += layer.memory(counted);
    usage += fits_.memory(counted);
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
      const LayerCache<Scalar>& target = tokens(layer, options.sequence);
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
    std::vector<LayerCache<Scalar>> copies;
    typename KeyFits<Scalar>::OwnFits fits;
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

  /// Empties every sequence and forgets every subspace.
  void clear() {
    layers_ = empty_layers(sequences_);
    fits_.clear();
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
    layers_ = std::move(file.layers);
    fits_.replace(std::move(file.fits), std::move(file.calibrated));
  }

  /// The same for one sequence, from a file that holds one, in place of what `sequence` holds. What
  /// is appended later is quantized as in the file, unless the cache is calibrated or, with
  /// shared_svd, goes by the subspace of another sequence.
  void load(std::istream& in, Index sequence) {
    check_sequence("sequence", sequence);
    Loaded file = read(in, 1);
    for (std::size_t layer = 0; layer < file.calibrated.size(); ++layer)
      file.fits[layer] = std::make_unique<KeyFit<Scalar>>(std::move(file.calibrated[layer]));
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const auto at = static_cast<std::size_t>(layer);
      tokens(layer, sequence) = std::move(file.layers[at]);
      fits_.replace(layer, sequence, std::move(file.fits[at]));
    }
  }

 private:
  /// What a file holds.
  struct Loaded {
    std::vector<LayerCache<Scalar>> layers;  // [layers, sequences]
    typename KeyFits<Scalar>::OwnFits fits;
    std::vector<KeyFit<Scalar>> calibrated;  // per layer, or empty
  };

  static Executor& serial() {
    static SerialExecutor executor;
    return executor;
  }

  static const ModelShape& checked(const ModelShape& shape, const Config& config, Index sequences) {
    check(shape, config);
    require(sequences >= 1, "sequences is ", sequences, "; it must be at least 1");
    return shape;
  }

  CallChecks<Scalar> checks() const { return {shape_, config_.scale_bits}; }

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
  LayerCache<Scalar>& tokens(Index layer, Index sequence) {
    return layers_[index(layer, sequence)];
  }
  const LayerCache<Scalar>& tokens(Index layer, Index sequence) const {
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

  std::vector<LayerCache<Scalar>> empty_layers(Index sequences) const {
    std::vector<LayerCache<Scalar>> layers;
    layers.reserve(static_cast<std::size_t>(shape_.layers * sequences));
    const Config config = stored_config();
    for (Index i = 0; i < shape_.layers * sequences; ++i) {
      const Index layer = i / sequences;
      layers.emplace_back(shape_, layer, config.of_layer(layer), fits_.even_blocks(layer)->front());
    }
    return layers;
  }

  void save(std::ostream& out, Index first, Index count) const {
    SnapshotWriter<Scalar> file(out, shape_, stored_config(), count, fits_.is_calibrated());
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      file.begin_layer();
      const auto lock = fits_.guard(layer);
      if (fits_.is_calibrated()) file.fit(fits_.calibrated(layer));
      for (Index sequence = first; sequence < first + count; ++sequence) {
        file.tokens(tokens(layer, sequence));
        // A sequence alone takes along what it is quantized with, whosever it is.
        file.fit(count == 1 ? fits_.behind(layer, sequence) : fits_.of(layer, sequence));
      }
    }
    file.finish();
  }

  Loaded read(std::istream& in, Index sequences) const {
    SnapshotReader<Scalar> file(in, shape_, stored_config(), sequences);
    Loaded loaded{empty_layers(sequences), {}, {}};
    auto tokens = loaded.layers.begin();
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      file.begin_layer(layer, fits_.even_blocks(layer));
      if (file.calibrated()) {
        std::unique_ptr<KeyFit<Scalar>> fit = file.fit();
        require(fit != nullptr, "the file is calibrated but for layer ", layer);
        loaded.calibrated.push_back(std::move(*fit));
      }
      for (Index sequence = 0; sequence < sequences; ++sequence) {
        file.tokens(*tokens++);
        loaded.fits.push_back(file.fit());
      }
    }
    file.finish();
    return loaded;
  }

  Matrix<Scalar> decoded(Index layer, Index sequence,
                         Matrix<Real> DecodedTokens<Real>::*what) const {
    const LayerCache<Scalar>& source = tokens(layer, sequence);
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
  std::shared_ptr<const RopeTable> rope_;  // null where positions are the caller's affair
  KeyFits<Scalar> fits_;
  std::vector<LayerCache<Scalar>> layers_;  // [layers, sequences]
  Executor* executor_ = &serial();
};

}  // namespace squat
