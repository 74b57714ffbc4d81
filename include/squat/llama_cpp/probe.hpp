// Graphs of llama.cpp that are looked at and not computed.
#pragma once

#include <llama.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <squat/error.hpp>
#include <squat/llama_cpp/functions.hpp>
#include <squat/matrix.hpp>
#include <vector>

namespace squat::llama_cpp {

/// Lets a context make the graphs of some tokens while every node is no operation. Afterwards nodes
/// are what they were, since a graph may be used again, and the context's memory is empty.
class Probe {
 public:
  using Visit = std::function<void(ggml_tensor&)>;

  Probe(llama_context* context, const Functions& llama) : context_(context), llama_(llama) {}
  ~Probe() {
    llama_.memory_clear(llama_get_memory(context_), false);
    llama_perf_context_reset(context_);
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  /// A node of a graph, before it would be computed: for the context's callback.
  void on_node(ggml_tensor& node) {
    if (visit_) visit_(node);
    nodes_.emplace_back(&node, node.op);
    node.op = GGML_OP_NONE;
  }

  /// The graph of `count` tokens of sequence 0 from position `first` on. Calls visit(node) for each
  /// node; then graph(nodes) for all.
  void decode(llama_pos first, std::int32_t count, const Visit& visit = {},
              const std::function<void(const std::vector<const ggml_tensor*>&)>& graph = {}) {
    const auto size = static_cast<std::size_t>(count);
    std::vector<llama_token> tokens(size, 0);
    std::vector<llama_pos> positions(size);
    std::iota(positions.begin(), positions.end(), first);
    std::vector<std::int32_t> counts(size, 1);
    llama_seq_id sequence = 0;
    std::vector<llama_seq_id*> sequences(size, &sequence);
    std::vector<std::int8_t> outputs(size, 0);
    outputs.back() = 1;
    nodes_.clear();
    visit_ = visit;
    const std::int32_t result =
        llama_.decode(context_, {count, tokens.data(), nullptr, positions.data(), counts.data(),
                                 sequences.data(), outputs.data()});
    visit_ = {};
    std::vector<const ggml_tensor*> all;
    for (const auto& [node, operation] : nodes_) {
      node->op = operation;
      all.push_back(node);
    }
    require(result == 0, "llama.cpp could not make a graph of ", count,
            " tokens (llama_decode returned ", result, ")");
    if (graph) graph(all);
  }

  /// After decode(0, 1): graphs of the positions up to `end`, of which the memory keeps the first
  /// and the last one. A text may have no gap where it goes on.
  void leave_ends(llama_pos end) {
    // One graph at a time, and room for both ends.
    const auto most =
        static_cast<llama_pos>(std::min(llama_n_ubatch(context_), llama_n_ctx(context_) - 3));
    for (llama_pos position = 1; position < end;) {
      const llama_pos count = std::min(most, end - position);
      decode(position, count);
      position += count;
      require(position <= 2 || llama_.memory_seq_rm(llama_get_memory(context_), 0, 1, position - 1),
              "llama.cpp does not remove the positions 1 to ", position - 2);
    }
  }

 private:
  llama_context* context_;
  const Functions& llama_;
  Visit visit_;
  std::vector<std::pair<ggml_tensor*, ggml_op>> nodes_;  // of the last graph
};

}  // namespace squat::llama_cpp
