// Attention of one call.
#pragma once

#include <atomic>
#include <squat/detail/attention/decode_attention.hpp>
#include <squat/detail/attention/tiled_attention.hpp>
#include <squat/detail/float_environment.hpp>
#include <squat/executor.hpp>
#include <variant>

namespace squat::detail {

/// Attention of query rows of one or several sequences of a layer, as one list of tasks. All memory
/// is taken before tasks run, and kept for the next call.
template <class Scalar>
class AttentionCall {
 public:
  /// Begins a call.
  void clear() {
    works_.clear();
    weighers_.clear();
    first_task_.assign(1, 0);
  }

  /// Attention of `rows` into `out`, both of which outlive run(): straight over the codes where
  /// `arithmetic` is fast, or over dequantized tokens. Codes cannot turn: where the cache applies a
  /// rope the keys of every call are dequantized.
  void add(const QueryRows<Scalar>& rows, Arithmetic arithmetic, MutableMatrixView<Scalar>& out) {
    const bool over_codes = arithmetic == Arithmetic::fast && rows.layer.format.rope == nullptr &&
                            rows.layer.format.stores_values() && !std::is_same_v<Scalar, double>;
    // More rows are enough for tasks of their own, and their tokens in full precision for products
    // of matrices.
    constexpr Index few = 8;
    const bool are_few = rows.count() <= few && rows.count() * rows.shape.heads_per_kv() <=
                                                    FusedAttention<Scalar>::max_rows;
    if (memory_.size() == works_.size()) memory_.push_back(std::make_unique<SequenceMemory>());
    SequenceMemory& memory = *memory_[works_.size()];
    float* log_sum_exp = rows.options.log_sum_exp;
    if (rows.options.received != nullptr) {
      if (log_sum_exp == nullptr) {
        memory.log_sum_exp.resize(static_cast<std::size_t>(rows.count() * rows.shape.query_heads));
        log_sum_exp = memory.log_sum_exp.data();
      }
      weighers_.emplace_back(rows, false, out, log_sum_exp, memory, scratch_);
    }
    if (over_codes && are_few)
      works_.emplace_back(std::in_place_type<DecodeAttention<Scalar>>, rows, out, log_sum_exp,
                          memory, scratch_);
    else
      works_.emplace_back(std::in_place_type<TiledAttention<Scalar>>, rows, over_codes, out,
                          log_sum_exp, memory, scratch_);
    const auto tasks = [](const auto& work) { return work.tasks(); };
    first_task_.push_back(first_task_.back() + std::visit(tasks, works_.back()));
  }

  void run(Executor& executor) {
    const Index tasks = first_task_.back();
    const Index at_once = std::min(tasks, std::max(executor.concurrency(), Index{1}));
    for (Work& work : works_) std::visit([&](auto& one) { one.reserve(at_once); }, work);
    for (TiledAttention<Scalar>& one : weighers_) one.reserve(at_once);
    run_each(executor, tasks, [this](Index i) { run_task(i); });
    for (const Work& work : works_) std::visit([](const auto& one) { one.finish(); }, work);
    if (!weighers_.empty()) weigh(executor);
  }

  Index bytes() const {
    Index sum = Index{sizeof(*this)} + scratch_.bytes() +
                static_cast<Index>(works_.capacity() * sizeof(Work) +
                                   weighers_.capacity() * sizeof(TiledAttention<Scalar>) +
                                   first_task_.capacity() * sizeof(Index));
    for (const auto& memory : memory_) sum += memory->bytes();
    return sum;
  }

 private:
  using Work = std::variant<DecodeAttention<Scalar>, TiledAttention<Scalar>>;

  /// Runs tasks, each once, however often the executor calls which. Fails where it did not call
  /// often enough.
  template <class Task>
  static void run_each(Executor& executor, Index tasks, const Task& task) {
    std::atomic<Index> begun{0};
    const auto run_next = [&] {
      const Index next = begun.fetch_add(1);
      if (next < tasks) task(next);
    };
    executor.run(tasks, [&run_next](Index) noexcept {
      const DefaultFloatEnvironment environment;
      run_next();
    });
    require(begun >= tasks, "the executor returned after ", begun.load(), " of ", tasks, " tasks");
  }

  void run_task(Index task) const noexcept {
    const auto next = std::upper_bound(first_task_.begin(), first_task_.end(), task);
    const auto index = static_cast<std::size_t>(next - first_task_.begin() - 1);
    std::visit([&](const auto& one) { one.run_task(task - first_task_[index]); }, works_[index]);
  }

  /// All sequences are of one layer, and so have as many kv heads.
  void weigh(Executor& executor) const {
    const Index kv_heads = weighers_.front().kv_heads();
    run_each(executor, static_cast<Index>(weighers_.size()) * kv_heads, [&](Index i) {
      weighers_[static_cast<std::size_t>(i / kv_heads)].weigh(i % kv_heads);
    });
  }

  std::vector<Work> works_;                       // one each sequence
  std::vector<TiledAttention<Scalar>> weighers_;  // of those that want CallOptions::received
  std::vector<Index> first_task_ = {0};
  std::vector<std::unique_ptr<SequenceMemory>> memory_;
  TaskMemory<Scalar> scratch_;
};

}  // namespace squat::detail
