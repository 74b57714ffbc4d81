// All layers of all sequences, whatever bits they have.
#pragma once

#include <memory>
#include <optional>
#include <squat/cache.hpp>
#include <squat/detail/attention/attention.hpp>
#include <squat/detail/attention/workspace_pool.hpp>
#include <squat/detail/cache/checked_rows.hpp>
#include <squat/detail/cache/layer_table.hpp>
#include <squat/detail/cache/sequence_moves.hpp>
#include <squat/detail/config_checks.hpp>
#include <squat/detail/encoding/simd/encode_dispatch.hpp>
#include <squat/detail/io/cache_file.hpp>
#include <squat/detail/layer/call_checks.hpp>
#include <squat/detail/layer/layer_writer.hpp>
#include <squat/detail/layer/padded_rows.hpp>
#include <squat/executor.hpp>
#include <squat/query_moments.hpp>
#include <utility>

namespace squat::detail {

/// What SQuatCache does, and documents. Bits are those of the configuration.
template <class Scalar>
class CacheOfLayers {
 public:
  using Real = ComputeType<Scalar>;

  /// `stored_config` is `config` with no bits of 0.
  CacheOfLayers(const ModelShape& shape, const Config& config, const Config& stored_config,
                Index sequences)
      : config_(config),
        stored_config_(stored_config),
        // In braces the shape is checked before it is used.
        layers_{checked(shape, config, sequences), layer_formats(shape, stored_config_), sequences},
        fits_(config, sequences, layers_.formats()),
        workspaces_(std::make_unique<Workspaces>()) {}

  void set_executor(Executor& executor) { executor_ = &executor; }

  void calibrate(const QueryMoments& moments) {
    for (Index layer = 0; layer < shape().layers; ++layer)
      for (Index sequence = 0; sequence < sequences(); ++sequence)
        require(layers_.read(layer, sequence).size() == 0, "calibrate: layer ", layer,
                " of sequence ", sequence, " holds tokens");
    moments.check_same(shape(), "the cache is", "the moments are");
    std::vector<std::vector<SecondMoment>> by_layer(static_cast<std::size_t>(shape().layers));
    for (Index layer = 0; layer < shape().layers; ++layer)
      for (Index head = 0; head < shape().layer(layer).kv_heads; ++head) {
        require(moments.moment(layer, head).count() > 0 || shape().layer(layer).kv_layer != -1,
                "moments of layer ", layer, ", kv head ", head, " have no queries");
        by_layer[static_cast<std::size_t>(layer)].push_back(
            moments.moment(layer, head).padded(layers_.format(layer).head_dim()));
      }
    fits_.calibrate(std::move(by_layer));
  }

  const ModelShape& shape() const { return layers_.shape(); }

  const Config& config() const { return config_; }

  Index sequences() const { return layers_.sequences(); }

  void update(Index layer, const Queries<Scalar>& queries, const Keys<Scalar>& keys,
              const Values<Scalar>& values, const CallOptions& options) {
    Honours{true, true}.check(options, "update");
    append(layer, &queries.matrix(), keys.matrix(), values.matrix(), options);
  }

  void update(Index layer, const Keys<Scalar>& keys, const Values<Scalar>& values,
              const CallOptions& options) {
    Honours{true}.check(options, "update without queries");
    require(config_.squat_lambda == 0 || fits_.is_calibrated(),
            "update has no queries; the cache is not calibrated, and config.squat_lambda is ",
            config_.squat_lambda, ", not 0");
    append(layer, nullptr, keys.matrix(), values.matrix(), options);
  }

  void attend(Index layer, MatrixView<Scalar> queries, MutableMatrixView<Scalar> out,
              const CallOptions& options) const {
    check_attend(layer, queries, out, options);
    auto wide_out = padded_out(layer, out);
    attend_padded(layer, padded_queries(layer, queries).view(), wide_out, options);
  }

  void attend(Index layer, const std::vector<SequenceQueries<Scalar>>& sequences) const {
    require(!sequences.empty(), "attend: there are no sequences");
    std::vector<LayerView<Scalar>> views;
    std::vector<PaddedRows<Scalar>> queries;
    std::vector<QueryRows<Scalar>> rows;
    std::vector<PaddedOut<Scalar>> outs;
    views.reserve(sequences.size());
    queries.reserve(sequences.size());
    rows.reserve(sequences.size());
    outs.reserve(sequences.size());
    for (const SequenceQueries<Scalar>& one : sequences) {
      check_attend(layer, one.queries, one.out, one.options);
      const LayerStore<Scalar>& source = layers_.read(layer, one.options.sequence);
      views.push_back(source.view());
      queries.push_back(padded_queries(layer, one.queries));
      rows.push_back(checked_rows(layers_.format(layer).shape, layer, source, views.back(),
                                  queries.back().view(), one.options));
      outs.push_back(padded_out(layer, one.out));
    }
    const typename Workspaces::Lease lease(*workspaces_);
    AttentionCall<Scalar>& call = *lease;
    call.clear();
    for (std::size_t i = 0; i < rows.size(); ++i)
      call.add(rows[i], config_.arithmetic, outs[i].view());
    call.run(*executor_);
    for (PaddedOut<Scalar>& out : outs) out.finish();
  }

  void flush(Index layer, const CallOptions& options) {
    Honours{}.check(options, "flush");
    writer(layer, options.sequence).flush();
  }

  void attention(Index layer, const Queries<Scalar>& queries, const Keys<Scalar>& keys,
                 const Values<Scalar>& values, MutableMatrixView<Scalar> out,
                 const CallOptions& options) {
    Honours{true, true, false, true, true}.check(options, "attention");
    const LayerStore<Scalar>& target = layers_.read(layer, options.sequence);
    checks(layer).output(queries.matrix(), out);
    checks(layer).sight(queries.matrix().rows(), target.first_to_stay(),
                        target.size() + keys.matrix().rows(), options);
    auto wide_out = padded_out(layer, out);
    const auto wide_queries =
        append(layer, &queries.matrix(), keys.matrix(), values.matrix(), options);
    attend_padded(layer, wide_queries->view(), wide_out, options);
    writer(layer, options.sequence).flush();
  }

  Matrix<Scalar> keys(Index layer, const CallOptions& options) const {
    Honours{}.check(options, "keys");
    return read_back(layer, options.sequence, &DequantizedTokens<Real>::keys,
                     shape().layer(layer).head_dim);
  }

  Matrix<Scalar> values(Index layer, const CallOptions& options) const {
    Honours{}.check(options, "values");
    return read_back(layer, options.sequence, &DequantizedTokens<Real>::values,
                     shape().layer(layer).value_width());
  }

  Index size(Index layer, const CallOptions& options) const {
    Honours{}.check(options, "size");
    return layers_.read(layer, options.sequence).size();
  }

  Index first(Index layer, const CallOptions& options) const {
    Honours{}.check(options, "first");
    return layers_.read(layer, options.sequence).first();
  }

  MemoryUsage memory() const {
    MemoryUsage usage;
    Counted counted;
    usage.bookkeeping = Index{sizeof(*this)} + Index{sizeof(std::unique_ptr<CacheOfLayers>)};
    usage += layers_.memory(counted);
    usage += fits_.memory(counted);
    usage.workspace = workspaces_->bytes();
    return usage;
  }

  void truncate(Index size, const CallOptions& options) {
    Honours{}.check(options, "truncate");
    for (Index layer = 0; layer < shape().layers; ++layer) {
      const LayerStore<Scalar>& target = layers_.read(layer, options.sequence);
      require(size >= 0 && size <= target.size(), "size is ", size, "; layer ", layer,
              " of sequence ", options.sequence, " has ", target.size(), " tokens");
      require(size == 0 || size >= target.least_size(), "size is ", size, "; layer ", layer,
              " of sequence ", options.sequence, " has dropped what token ", size - 1,
              " sees: it must be 0, or at least ", target.least_size());
    }
    for (Index layer = 0; layer < shape().layers; ++layer)
      if (shape().layer(layer).kv_layer == -1) layers_.own(layer, options.sequence).truncate(size);
  }

  void erase(const TokenRange& range, const CallOptions& options) {
    Honours{}.check(options, "erase");
    SequenceMoves<Scalar> moves = this->moves(options.sequence);
    moves.check(range);
    if (!range.empty() && range.end == size(0, options)) return truncate(range.begin, options);
    moves.erase(range);
  }

  void shift(const TokenRange& range, Index delta, const CallOptions& options) {
    Honours{}.check(options, "shift");
    SequenceMoves<Scalar> moves = this->moves(options.sequence);
    moves.check(range);
    moves.shift(range, delta);
  }

  void fork(Index from, Index to) {
    layers_.check_sequence("from", from);
    layers_.check_sequence("to", to);
    if (from == to) return;
    std::vector<LayerStore<Scalar>> copies;
    typename KeyFits<Scalar>::OwnFits fits;
    copies.reserve(static_cast<std::size_t>(shape().layers));
    fits.reserve(static_cast<std::size_t>(shape().layers));
    for (Index layer = 0; layer < shape().layers; ++layer) {
      copies.push_back(layers_.own(layer, from));
      fits.push_back(fits_.copy(layer, from));
    }
    for (Index layer = 0; layer < shape().layers; ++layer) {
      layers_.own(layer, to) = std::move(copies[static_cast<std::size_t>(layer)]);
      fits_.take_copy(layer, to, std::move(fits[static_cast<std::size_t>(layer)]));
    }
  }

  void clear() {
    auto workspaces = std::make_unique<Workspaces>();
    layers_.clear();
    fits_.clear();
    workspaces_ = std::move(workspaces);
  }

  void trim() {
    auto workspaces = std::make_unique<Workspaces>();
    for (LayerStore<Scalar>& layer : layers_.all()) {
      layer.compact();
      layer.shrink();
    }
    workspaces_ = std::move(workspaces);
  }

  void save(std::ostream& out) const {
    write_cache(out, shape(), stored_config_, layers_.all(), fits_, 0, sequences());
  }

  void save(std::ostream& out, Index sequence) const {
    layers_.check_sequence("sequence", sequence);
    write_cache(out, shape(), stored_config_, layers_.all(), fits_, sequence, 1);
  }

  void load(std::istream& in) {
    auto file = read_cache<Scalar>(in, shape(), stored_config_, layers_.formats(), sequences());
    layers_.all() = std::move(file.layers);
    fits_.replace(std::move(file.fits), std::move(file.calibrated));
  }

  void load(std::istream& in, Index sequence) {
    layers_.check_sequence("sequence", sequence);
    auto file = read_cache<Scalar>(in, shape(), stored_config_, layers_.formats(), 1);
    for (std::size_t layer = 0; layer < file.calibrated.size(); ++layer)
      file.fits[layer] = std::make_unique<KeyFit<Real>>(std::move(file.calibrated[layer]));
    for (Index layer = 0; layer < shape().layers; ++layer) {
      const auto at = static_cast<std::size_t>(layer);
      layers_.own(layer, sequence) = std::move(file.layers[at]);
      fits_.replace(layer, sequence, std::move(file.fits[at]));
    }
  }

 private:
  static Executor& serial() {
    static SerialExecutor executor;
    return executor;
  }

  static const ModelShape& checked(const ModelShape& shape, const Config& config, Index sequences) {
    check(shape, config);
    require(sequences >= 1 && sequences <= max_sequences, "sequences is ", sequences,
            "; it must be 1 to ", max_sequences);
    simd::choose_kernels();
    return shape;
  }

  CallChecks<Scalar> checks(Index layer) const {
    return {shape().layer(layer), config_.scale_bits};
  }

  SequenceMoves<Scalar> moves(Index sequence) {
    layers_.check_sequence("options.sequence", sequence);
    return {shape(), layers_.formats(), layers_.all(), sequences(), sequence};
  }

  LayerWriter<Scalar> writer(Index layer, Index sequence) {
    LayerStore<Scalar>& store = layers_.own(layer, sequence);
    require(shape().layer(layer).kv_layer == -1, "layer ", layer,
            " reads the keys and values of layer ", shape().layer(layer).kv_layer,
            ": it takes none of its own");
    return {store, fits_, layer, sequence};
  }

  PaddedRows<Scalar> padded_queries(Index layer, const MatrixView<Scalar>& queries) const {
    const LayerShape& shape = layers_.format(layer).shape;
    return {queries, shape.query_heads, shape.head_dim, HeadPadding::zeros};
  }
  PaddedOut<Scalar> padded_out(Index layer, const MutableMatrixView<Scalar>& out) const {
    const LayerShape& shape = layers_.format(layer).shape;
    return {out, shape.query_heads, shape.value_width()};
  }

  /// update(); `queries` is null where there are none. Returns them padded.
  std::optional<PaddedRows<Scalar>> append(Index layer, const MatrixView<Scalar>* queries,
                                           const MatrixView<Scalar>& keys,
                                           const MatrixView<Scalar>& values,
                                           const CallOptions& options) {
    auto target = writer(layer, options.sequence);
    checks(layer).new_tokens(keys, values, queries, options.mask);
    const LayerShape& shape = layers_.format(layer).shape;
    const LayerSettings& settings = layers_.format(layer).settings;
    const bool keys_share = settings.has_token_scales && !settings.rotates_keys;
    const PaddedRows<Scalar> wide_keys(keys, shape.kv_heads, shape.head_dim,
                                       keys_share ? HeadPadding::last : HeadPadding::zeros);
    const PaddedRows<Scalar> wide_values(
        values, shape.kv_heads, shape.own_value_width(),
        settings.rotates_values ? HeadPadding::zeros : HeadPadding::last);
    std::optional<PaddedRows<Scalar>> wide_queries;
    if (queries != nullptr) wide_queries.emplace(padded_queries(layer, *queries));
    target.append(wide_keys.view(), wide_values.view(),
                  queries != nullptr ? &wide_queries->view() : nullptr, options);
    return wide_queries;
  }

  /// Keys or values of all tokens [tokens, kv_heads * width], as `what` says.
  Matrix<Scalar> read_back(Index layer, Index sequence, Matrix<Real> DequantizedTokens<Real>::*what,
                           Index width) const {
    Matrix<Scalar> wide = detail::read_back(layers_.read(layer, sequence).view(), what);
    const Index heads = shape().layer(layer).kv_heads;
    if (wide.cols() == heads * width) return wide;
    Matrix<Scalar> all(wide.rows(), heads * width);
    narrow(wide, heads, width, all);
    return all;
  }

  void check_attend(Index layer, const MatrixView<Scalar>& queries,
                    const MutableMatrixView<Scalar>& out, const CallOptions& options) const {
    Honours{true, false, true, true, true}.check(options, "attend");
    const LayerStore<Scalar>& source = layers_.read(layer, options.sequence);
    checks(layer).queries(queries, options.mask);
    checks(layer).output(queries, out);
    checks(layer).sight(queries.rows(), source.first(), source.size(), options);
  }

  /// attend() of queries and out whose numbers and shapes are checked.
  void attend_padded(Index layer, const MatrixView<Scalar>& queries, PaddedOut<Scalar>& out,
                     const CallOptions& options) const {
    const LayerStore<Scalar>& source = layers_.read(layer, options.sequence);
    const LayerView<Scalar> view = source.view();
    const QueryRows<Scalar> rows =
        checked_rows(layers_.format(layer).shape, layer, source, view, queries, options);
    const typename Workspaces::Lease lease(*workspaces_);
    AttentionCall<Scalar>& call = *lease;
    call.clear();
    call.add(rows, config_.arithmetic, out.view());
    call.run(*executor_);
    out.finish();
  }

  using Workspaces = WorkspacePool<AttentionCall<Scalar>>;

  Config config_;
  Config stored_config_;  // with the widths that result
  LayerTable<Scalar> layers_;
  KeyFits<Scalar> fits_;
  std::unique_ptr<Workspaces> workspaces_;
  Executor* executor_ = &serial();
};

}  // namespace squat::detail
