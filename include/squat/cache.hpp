// The cache that an inference engine holds: what it offers.
//
// This header declares; squat.hpp defines too. A source that includes this one alone compiles in a
// fraction of the time. It needs another source that includes squat.hpp and instantiates the
// caches:
//
//     template class squat::SQuatCache<float, 2>;
#pragma once

#include <squat/detail/macros_begin.hpp>

#include <iosfwd>
#include <memory>
#include <squat/config.hpp>
#include <squat/executor.hpp>
#include <squat/memory.hpp>
#include <squat/options.hpp>
#include <vector>

namespace squat {

class QueryMoments;

namespace detail {

template <class Scalar>
class CacheOfLayers;

template <class Layers>
class Held;

}  // namespace detail

/// One of several sequences in a call of SQuatCache::attend: what a call about it alone takes.
template <class Scalar>
struct SequenceQueries {
  MatrixView<Scalar> queries;     ///< [rows, query_heads * head_dim]
  MutableMatrixView<Scalar> out;  ///< [rows, query_heads * value_dim]
  CallOptions options = {};       ///< with the sequence
};

/// How many sequences a cache can have.
inline constexpr Index max_sequences = 65536;

/// The keys and values of every layer of a transformer, quantized as SQuat does (arXiv 2503.24358).
///
/// Matrices are row-major [tokens, heads * head_dim]; a row is a token; queries and keys come after
/// position embedding unless ModelShape::rope says that the cache applies it. They are taken as
/// Eigen::Ref with an outer stride: an engine's buffer goes in through Eigen::Map without a copy.
///
/// Newest tokens are in a residual in full precision. Keys leave it in whole blocks when
/// residual_length tokens are complete (all, or with rolling_residual the oldest block), a value
/// (and with KeyScales::per_token a key) once residual_length newer ones are there; each is
/// quantized exactly once and its codes never change.
///
/// Every call checks its arguments and fails with squat::Error, the cache as it was. A cache is
/// moved, never copied: fork(), or save() and load(), copy what it holds. One that was moved from
/// can be assigned to or destroyed, and any other call fails.
///
/// Threads may call at the same time where no two of them touch the same layer of the same
/// sequence, or where those that do only read. What sequences share is guarded. A call touches the
/// layer and the sequence that it names; truncate(), fork(), and save() and load() of one sequence
/// touch all layers of theirs, of which fork() reads `from`; memory(), calibrate(), clear(),
/// set_executor(), and save() and load() of all touch everything.
///
/// @tparam Scalar float, double, Eigen::half or Eigen::bfloat16: what goes in, what comes out, and
///   what the residual is kept in.
/// @tparam KeyBits 2, 3, 4 or 8.
/// @tparam ValueBits 2, 3, 4 or 8.
template <class Scalar, int KeyBits, int ValueBits = KeyBits>
class SQuatCache {
  static_assert(is_supported_scalar<Scalar>,
                "Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(detail::is_supported_bits<KeyBits> && detail::is_supported_bits<ValueBits>,
                "KeyBits and ValueBits must be 2, 3, 4 or 8");

 public:
  using Real = ComputeType<Scalar>;

  /// For 1 to max_sequences sequences, of which each takes memory once it holds tokens.
  explicit SQuatCache(const ModelShape& shape, const Config& config = {}, Index sequences = 1);
  SQuatCache(SQuatCache&&) noexcept;
  SQuatCache& operator=(SQuatCache&&) noexcept;
  ~SQuatCache();

  /// Attention work goes to `executor`, which outlives the cache; serial until one is set. Where
  /// several threads attend, it takes several calls of run() at the same time.
  void set_executor(Executor& executor);

  /// From now on keys of all sequences are quantized under the metric of `moments`, and no prompt
  /// fits one, until clear(). The moments are of queries as Config::subspace_queries wants them.
  /// Bits per channel are still chosen by the keys of the first sequence that fills a block. Fails
  /// on another shape, moments without queries, or a cache that holds tokens.
  void calibrate(const QueryMoments& moments);

  const ModelShape& shape() const;
  const Config& config() const;
  Index sequences() const;

  /// Appends tokens to `layer` of options.sequence. First quantizes what an earlier call left
  /// complete, so that attend() sees the new tokens in full precision.
  /// The queries of the first update of an empty sequence fit its subspace; options.fit asks for
  /// later ones to join in. keys: [tokens, kv_heads * head_dim]; values: [tokens, kv_heads *
  /// value_dim], without columns where LayerShape::values_in_keys says so; queries: [tokens,
  /// query_heads * head_dim]. Honours options.mask and options.fit.
  void update(Index layer, const Queries<Scalar>& queries, const Keys<Scalar>& keys,
              const Values<Scalar>& values, const CallOptions& options = {});

  /// update() without queries, where none is needed: in a cache that is calibrated, or whose
  /// config().squat_lambda is 0. Fails in any other. Honours options.mask.
  void update(Index layer, const Keys<Scalar>& keys, const Values<Scalar>& values,
              const CallOptions& options = {});

  /// Attention of the newest queries.rows() tokens of the layer, as LayerShape says: row i belongs
  /// to token size - rows + i, or to options.position + i, and sees the tokens up to its own that
  /// the layer's window or chunk leaves, or what options.visible and options.tree say. Quantized
  /// tokens count as dequantized, the residual as it is. queries: [rows, query_heads * head_dim];
  /// out: [rows, query_heads * value_dim]. The row of a padding token is zero, and so is one that
  /// sees nothing. The cache knows its own padding: options.mask [rows] allows those queries to
  /// hold anything. Honours options.mask, position, log_sum_exp, visible, tree and received.
  void attend(Index layer, MatrixView<Scalar> queries, MutableMatrixView<Scalar> out,
              const CallOptions& options = {}) const;

  /// attend() of several sequences as one list of tasks, in which short ones leave no thread
  /// without work: the decoding step of a batch. The same bytes as one by one.
  void attend(Index layer, const std::vector<SequenceQueries<Scalar>>& sequences) const;

  /// Quantizes what the residual of the layer no longer has to hold, and drops what its window has
  /// left behind. Honours options.sequence alone.
  void flush(Index layer, const CallOptions& options = {});

  /// update, attend and flush: what an engine calls for each layer and each run of new tokens.
  /// Honours options.mask, fit, log_sum_exp, visible, tree and received, the last three with the
  /// new ones.
  void attention(Index layer, const Queries<Scalar>& queries, const Keys<Scalar>& keys,
                 const Values<Scalar>& values, MutableMatrixView<Scalar> out,
                 const CallOptions& options = {});

  /// Keys of the tokens that the layer holds, from first() on, as attention sees them
  /// [tokens, kv_heads * head_dim]; padding is zero. Where shape().rope is applied by the cache
  /// they are as stored, before it.
  Matrix<Scalar> keys(Index layer, const CallOptions& options = {}) const;

  /// Values of the same tokens [tokens, kv_heads * value_dim]; padding is zero.
  Matrix<Scalar> values(Index layer, const CallOptions& options = {}) const;

  /// Tokens that the layer has taken in, padding included, and a window's dropped ones too: the
  /// next token has this position.
  Index size(Index layer, const CallOptions& options = {}) const;

  /// The first token that the layer still holds; 0 unless it has a window or chunks. flush() drops
  /// whole blocks of tokens that no token to come sees, were the newest residual_length taken back.
  /// Attention sinks (LayerShape::sink_tokens) before it are held all the same, and visible.
  Index first(Index layer, const CallOptions& options = {}) const;

  /// Bytes allocated by the whole cache. What several sequences share counts once.
  MemoryUsage memory() const;

  /// Keeps the first `size` tokens of options.sequence in every layer, as speculative decoding
  /// does. What is quantized stays as it is: a block cut short keeps the codes of its first tokens,
  /// and tokens that follow begin a new block. Full-precision tokens, padding and the fit of the
  /// metric are those of the tokens that stay; without any valid token the next queries fit it
  /// anew.
  ///
  /// Fails if a layer has fewer tokens, or if it has dropped what the newest remaining token sees:
  /// `size` must be 0, or where first(layer) > 0 at least first(layer) + the layer's window, or one
  /// more than the first chunk behind first(layer) begins at. A layer can always be cut back by
  /// residual_length from the longest that it has been at a flush() or update(). What remains is
  /// visible as if the others had never come.
  void truncate(Index size, const CallOptions& options = {});

  /// Takes the tokens at positions of `range` out of options.sequence in every layer, for good: a
  /// context that is full makes room, an editor takes back, eviction by score (H2O, SnapKV). The
  /// others keep their positions, codes and what they are quantized under; shift() closes the gap.
  /// A range that reaches to the end is truncate(). Full-precision tokens and sinks that are taken
  /// out are not made up for. When it fails, std::bad_alloc included, the cache is as it was.
  void erase(const TokenRange& range, const CallOptions& options = {});

  /// Moves the tokens at positions of `range` by `delta` positions in every layer of
  /// options.sequence, as if they had been there from the beginning but for what their keys and
  /// values know of tokens before them. No code is touched: a block of moved keys is turned when it
  /// is read, or the queries the other way. size() changes where `range` reaches to the end.
  ///
  /// Fails unless LayerShape::rope says how keys turn (Rope::is_applied), on positions below 0, on
  /// gaps of more than a million positions and a thousand for every token, where tokens that are
  /// not padding stand between the range and where it goes (erase() them first), and where a window
  /// has dropped what the newest token would see. When it fails, std::bad_alloc included, the cache
  /// is as it was.
  void shift(const TokenRange& range, Index delta, const CallOptions& options = {});

  /// Makes sequence `to` a copy of sequence `from` in every layer, in place of whatever it held:
  /// for a prefix that several continuations have in common, for beams, for parallel samples. What
  /// is quantized is shared, at the cost of a few bytes a block; residual and full-precision tokens
  /// are copied. Neither sequence ever shows what happens to the other. With shared_svd the
  /// subspace of a layer stays with the sequence that fitted it; without, `to` goes on under a copy
  /// of that of `from`. When memory runs out (std::bad_alloc) `to` is as it was.
  void fork(Index from, Index to);

  /// Empties every sequence, forgets every subspace, and gives back the memory of calls.
  void clear();

  /// Gives back the memory that is kept for calls to come: what attention computes in
  /// (MemoryUsage::workspace), room for tokens, and slabs that are mostly empty. truncate(),
  /// erase() and fork() give back the memory of tokens themselves, but for slabs of 32 blocks at
  /// most of which others still use a part.
  void trim();

  /// Writes all sequences, to be loaded again: a prompt that was read once, or work that goes on
  /// another day. The file (SnapshotFormat) has the same bytes on every machine; what several
  /// sequences share is written once. Fails where the stream does.
  void save(std::ostream& out) const;

  /// Writes one sequence, and what its keys are quantized with, as a cache of its own.
  void save(std::ostream& out, Index sequence) const;

  /// Goes on where a saved cache stopped, in place of all that is held: the same keys, values and
  /// attention, bit for bit, and the same codes for what is appended later. Reads no further than
  /// the file goes. Fails on a file of another Scalar, shape, configuration or number of sequences,
  /// naming what differs, and on one that is cut short or altered; whoever made the file, what is
  /// loaded is sound. When it fails, std::bad_alloc included, the cache is as it was.
  void load(std::istream& in);

  /// Loads one sequence, as load() of all does, from a file that holds one, in place of what
  /// `sequence` holds. What is appended later is quantized as in the file, unless the cache is
  /// calibrated or, with shared_svd, goes by the subspace of another sequence.
  void load(std::istream& in, Index sequence);

 private:
  detail::Held<detail::CacheOfLayers<Scalar>> held();
  detail::Held<const detail::CacheOfLayers<Scalar>> held() const;

  std::unique_ptr<detail::CacheOfLayers<Scalar>> cache_;  // null once moved from
};

}  // namespace squat

#include <squat/detail/macros_end.hpp>
