// The operator that takes the place of attention in llama.cpp's graphs.
#pragma once

#include <algorithm>
#include <mutex>
#include <squat/llama_cpp/batch_rows.hpp>
#include <squat/llama_cpp/cells.hpp>
#include <squat/llama_cpp/model_attention.hpp>
#include <squat/llama_cpp/thread_team.hpp>
#include <squat/squat.hpp>

namespace squat::llama_cpp {

using Cache = SQuatCache<float, 2>;  // widths come from Config

/// Appends the keys and values of each graph of a batch to a cache, and attends over it. ggml's
/// threads share the sequences of a graph, and the tasks of their attention.
class AttentionOperator {
 public:
  AttentionOperator(Cache& cache, std::vector<AttentionLayer> layers)
      : cache_(cache), layers_(std::move(layers)), tokens_done_(layers_.size(), 0) {
    cache_.set_executor(team_);
  }

  /// To be called before a batch: its tokens, in the order in which graphs compute them, and the
  /// cells of tokens from before.
  void begin(std::vector<BatchToken> batch, std::vector<CellToken> kept_cells = {}) {
    batch_ = std::move(batch);
    cells_ = std::move(kept_cells);
    kept_ = static_cast<Index>(cells_.size());
    error_.clear();
    has_failed_ = false;
    std::fill(tokens_done_.begin(), tokens_done_.end(), 0);
    checked_mask_ = nullptr;
    rows_begin_ = rows_end_ = 0;
    sequences_.clear();
  }

  /// Before a graph is computed: the cells that a layer's keys are written to, which
  /// ggml_set_rows takes as `rows` [tokens].
  void note_cells(std::size_t layer, const ggml_tensor& rows) {
    if (has_failed_) return;
    const Index begin = tokens_done_[layer];
    bool is_known = rows.type == GGML_TYPE_I64 && rows.data != nullptr &&
                    begin + rows.ne[0] <= static_cast<Index>(batch_.size());
    for (Index i = begin; is_known && i < begin + rows.ne[0]; ++i) {
      const Index cell = static_cast<const std::int64_t*>(rows.data)[i - begin];
      if (i == noted()) cells_.push_back({cell, batch_[static_cast<std::size_t>(i)]});
      is_known = i < noted() && cells_[static_cast<std::size_t>(kept_ + i)].cell == cell;
    }
    if (!is_known)
      fail("layer " + std::to_string(layer) + " keeps its keys in other cells than layers before");
  }
  /// The tokens of the batch that have cells.
  std::vector<CellToken> cells() const { return {cells_.begin() + kept_, cells_.end()}; }

  /// Tokens of the batch that all layers have taken in.
  Index tokens_done() const { return *std::min_element(tokens_done_.begin(), tokens_done_.end()); }
  /// Tokens of the batch that all layers have taken in before the last graph, in which it failed.
  Index tokens_before_last_graph() const { return std::min(rows_begin_, tokens_done()); }

  /// Whether something went wrong; then the graph must not go on.
  bool has_failed() const { return has_failed_; }
  /// What went wrong first.
  const std::string& error() const { return error_; }
  void fail(const std::string& error) noexcept {
    const std::lock_guard lock(error_mutex_);
    if (has_failed_) return;
    has_failed_ = true;
    try {
      error_ = error;
    } catch (...) {  // no memory for words
    }
  }

  /// Computes `node`, attention of `layer`, as thread `thread` of `threads`.
  void run(ggml_tensor& node, std::size_t layer, int thread, int threads) noexcept {
    const AttentionNode attention(node);
    const Index begin = tokens_done_[layer];
    team_.run_jobs(
        thread, threads, [&] { return prepare(attention, layer, begin); },
        [&](Index job) { run_job(node, attention, layer, begin, job); },
        [&] { finish(attention, layer, begin); });
  }

 private:
  /// Views of a row-major matrix in a tensor whose rows are `stride` bytes apart.
  using Rows = Eigen::Map<Matrix<float>, 0, Eigen::OuterStride<>>;
  using ConstRows = Eigen::Map<const Matrix<float>, 0, Eigen::OuterStride<>>;

  /// Of one sequence of a graph. Kept from graph to graph, so that memory is.
  struct Work {
    Matrix<float> queries, keys, values, out;
    std::vector<TokenRange> visible;  // of each row, unless it sees what comes before it
  };

  /// Returns the number of jobs; 0 after a failure.
  Index prepare(const AttentionNode& attention, std::size_t layer, Index begin) noexcept {
    if (has_failed_) return 0;
    try {
      const Index end = begin + attention.queries->ne[1];
      require(end <= static_cast<Index>(batch_.size()), "layer ", layer, " has ", end,
              " tokens; the batch has ", batch_.size());
      require(end <= noted(), "layer ", layer, " of the model's graph does not write its keys");
      if (begin != rows_begin_ || end != rows_end_) {
        sequences_ = rows_by_sequence(batch_, begin, end);
        rows_begin_ = begin;
        rows_end_ = end;
        checked_mask_ = nullptr;
        if (work_.size() < sequences_.size()) work_.resize(sequences_.size());
      }
      if (attention.mask != checked_mask_) {
        const LayerShape& shape = cache_.shape().layer(static_cast<Index>(layer));
        sight_ = check_mask(*attention.mask, cells_, kept_, begin, end, shape);
        checked_mask_ = attention.mask;
      }
      // A metric that sequences share is that of the first one: they go in turn.
      return cache_.config().shared_svd ? 1 : static_cast<Index>(sequences_.size());
    } catch (const std::exception& error) {
      fail(error.what());
      return 0;
    }
  }

  void run_job(ggml_tensor& node, const AttentionNode& attention, std::size_t layer, Index begin,
               Index job) noexcept {
    try {
      if (!cache_.config().shared_svd)
        return attend(node, attention, layer, begin, static_cast<std::size_t>(job));
      for (std::size_t i = 0; i < sequences_.size(); ++i) attend(node, attention, layer, begin, i);
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }

  void attend(ggml_tensor& node, const AttentionNode& attention, std::size_t layer, Index begin,
              std::size_t index) {
    const SequenceRows& sequence = sequences_[index];
    Work& work = work_[index];
    const auto rows = static_cast<Index>(sequence.rows.size());
    const LayerShape& shape = cache_.shape().layer(static_cast<Index>(layer));
    const Index query_width = shape.query_heads * shape.head_dim;
    const Index out_width = shape.query_heads * shape.value_width();
    if (shape.kv_layer == -1) gather_cells(*attention.keys, sequence, begin, work.keys);
    if (shape.values_in_keys)
      work.values.resize(rows, 0);
    else if (shape.kv_layer == -1)
      gather_cells(*attention.values, sequence, begin, work.values);

    CallOptions options;
    options.sequence = sequence.sequence;
    options.fit = FitQueries::follow;
    const ggml_tensor& queries = *attention.queries;
    const bool in_place =
        sequence.foreign == 0 && sequence.are_contiguous() && queries.nb[0] == sizeof(float) &&
        queries.nb[2] == queries.ne[0] * sizeof(float) && queries.nb[1] % sizeof(float) == 0;
    if (in_place) {
      const auto row = static_cast<std::size_t>(sequence.rows.front());
      const ConstRows from(row_of(queries, 1, row), rows, query_width,
                           Eigen::OuterStride<>(stride_of(queries, 1)));
      Rows to(row_of(node, 2, row), rows, out_width, Eigen::OuterStride<>(stride_of(node, 2)));
      return attend_layer(layer, from, work, to, options);
    }
    work.queries.resize(rows, query_width);
    work.out.resize(rows, out_width);
    for (Index r = 0; r < rows; ++r)
      for (Index head = 0; head < shape.query_heads; ++head)
        for (Index c = 0; c < shape.head_dim; ++c)
          std::memcpy(&work.queries(r, head * shape.head_dim + c),
                      reinterpret_cast<const char*>(
                          row_of(queries, 1, static_cast<std::size_t>(sequence.rows[r]))) +
                          static_cast<std::size_t>(head) * queries.nb[2] +
                          static_cast<std::size_t>(c) * queries.nb[0],
                      sizeof(float));
    attend_layer(layer, work.queries, work, work.out, options);
    for (Index r = 0; r < rows; ++r) {
      const Index row = sequence.rows[static_cast<std::size_t>(r)];
      if (batch_[static_cast<std::size_t>(begin + row)].sequence == sequence.sequence)
        std::copy_n(work.out.row(r).data(), out_width,
                    row_of(node, 2, static_cast<std::size_t>(row)));
    }
  }

  /// What is new stays in full precision until the last layer that reads it has seen it.
  void attend_layer(std::size_t layer, const MatrixView<float>& queries, Work& work,
                    MutableMatrixView<float> out, const CallOptions& options) {
    const Index index = static_cast<Index>(layer);
    const AttentionLayer& one = layers_[layer];
    if (one.kv_layer == index)
      cache_.update(index, squat::Queries(queries), squat::Keys(work.keys),
                    squat::Values(work.values), options);
    CallOptions read;
    read.sequence = options.sequence;
    CallOptions sight = read;
    if (sight_ == Sight::graph) {
      show_graph(layer, cache_.size(index, read), queries.rows(), work.visible);
      sight.visible = work.visible;
    }
    cache_.attend(index, queries, out, sight);
    if (one.is_last_reader) cache_.flush(one.kv_layer, read);
  }

  /// The newest `rows` of a layer's `size` tokens see one another, and back as far as a window or
  /// chunk says.
  void show_graph(std::size_t layer, Index size, Index rows,
                  std::vector<TokenRange>& visible) const {
    const LayerShape& shape = cache_.shape().layer(static_cast<Index>(layer));
    visible.clear();
    for (Index token = size - rows; token < size; ++token) {
      const Index begin = shape.window > 0  ? std::max(token - shape.window + 1, Index{0})
                          : shape.chunk > 0 ? token / shape.chunk * shape.chunk
                                            : 0;
      visible.push_back({begin, size});
    }
  }

  void finish(const AttentionNode& attention, std::size_t layer, Index begin) noexcept {
    if (has_failed_) return;
    const Index end = begin + attention.queries->ne[1];
    tokens_done_[layer] = end;
    if (!layers_[layer].is_last_reader) return;
    const auto [first, last] =
        std::minmax_element(cells_.begin() + kept_ + begin, cells_.begin() + kept_ + end,
                            [](const CellToken& a, const CellToken& b) { return a.cell < b.cell; });
    give_back(*layers_[layer].key_cells, first->cell, last->cell + 1);
    give_back(*layers_[layer].value_cells, first->cell, last->cell + 1);
  }

  /// Row `row` of a tensor whose rows lie along dimension `dimension`.
  static float* row_of(const ggml_tensor& tensor, int dimension, std::size_t row) {
    return reinterpret_cast<float*>(static_cast<char*>(tensor.data) + row * tensor.nb[dimension]);
  }
  static Index stride_of(const ggml_tensor& tensor, int dimension) {
    return static_cast<Index>(tensor.nb[dimension] / sizeof(float));
  }

  /// The new keys or values of a sequence [tokens, kv_heads * width of a head], from their cells.
  void gather_cells(const ggml_tensor& view, const SequenceRows& sequence, Index begin,
                    Matrix<float>& out) const {
    out.resize(static_cast<Index>(sequence.rows.size()), view.ne[0] * view.ne[2]);
    for (Index r = 0; r < out.rows(); ++r) {
      const Index token = kept_ + begin + sequence.rows[static_cast<std::size_t>(r)];
      const auto cell = static_cast<std::size_t>(cells_[static_cast<std::size_t>(token)].cell);
      ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(
                                static_cast<const char*>(view.data) + cell * view.nb[1]),
                            out.row(r).data(), out.cols());
    }
  }

  /// Tokens of the batch whose cells are known.
  Index noted() const { return static_cast<Index>(cells_.size()) - kept_; }

  Cache& cache_;
  std::vector<AttentionLayer> layers_;
  ThreadTeam team_;
  std::vector<BatchToken> batch_;
  std::vector<CellToken> cells_;    // from before, then those of the batch
  Index kept_ = 0;                  // from before
  std::vector<Index> tokens_done_;  // of the batch, per layer

  // Of the graph that is being computed.
  Index rows_begin_ = 0, rows_end_ = 0;
  std::vector<SequenceRows> sequences_;
  std::vector<Work> work_;
  const ggml_tensor* checked_mask_ = nullptr;
  Sight sight_ = Sight::earlier;  // that it shows

  std::mutex error_mutex_;
  std::atomic<bool> has_failed_{false};
  std::string error_;
};

}  // namespace squat::llama_cpp
