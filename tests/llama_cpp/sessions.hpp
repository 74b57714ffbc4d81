// The same calls to llama.cpp's own context and to one on a SQuat cache.
#pragma once

#include <map>
#include <memory>
#include <squat/llama_cpp.hpp>
#include <sstream>

#include "tiny_session.hpp"

namespace squat::testing {

/// New tokens of a sequence, or of several.
struct Piece {
  llama_seq_id sequence;
  std::vector<llama_token> tokens;
  std::vector<llama_seq_id> more = {};
};

/// Embeddings in place of tokens, as an image has them: its rows one behind the other.
struct Image {
  llama_seq_id sequence;
  int rows, columns;
  std::vector<llama_seq_id> more = {};

  int size() const { return rows * columns; }
};

using Rows = std::vector<std::vector<float>>;  // of logits

/// Everything stays in full precision.
inline Config exact_config() {
  Config config;
  config.scale_bits = 32;
  config.arithmetic = Arithmetic::dequantized;
  config.residual_length = 1024;
  config.shared_svd = false;
  return config;
}

/// Small batches, so that a prompt comes in pieces.
inline llama_context_params server_params(int threads = 1) {
  llama_context_params params = exact_context(512);
  params.n_batch = 96;
  params.n_ubatch = 32;
  params.n_seq_max = 3;
  params.kv_unified = true;
  params.swa_full = true;
  params.n_threads = params.n_threads_batch = threads;
  return params;
}

/// The same on a SQuat cache, which has its own attention.
inline llama_context_params squat_params(int threads = 1) {
  llama_context_params params = server_params(threads);
  params.type_k = params.type_v = GGML_TYPE_F16;
  return params;
}

inline std::vector<llama_token> part(const std::vector<llama_token>& tokens, int begin, int end) {
  return {tokens.begin() + begin, tokens.begin() + end};
}

/// How far logits are off, relative: |a - b| / |a| over all of them.
inline double difference(const Rows& a, const Rows& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const Eigen::Map<const Eigen::VectorXf> expected(a[i].data(), static_cast<Index>(a[i].size()));
    const Eigen::Map<const Eigen::VectorXf> found(b[i].data(), static_cast<Index>(b[i].size()));
    error += (expected - found).cast<double>().squaredNorm();
    size += expected.cast<double>().squaredNorm();
  }
  return std::sqrt(error / size);
}

/// A context under test: what a server does with it.
class Session {
 public:
  explicit Session(int vocabulary) : vocabulary_(vocabulary) {}
  virtual ~Session() = default;

  /// One batch; the logits after each of its tokens, in order.
  Rows decode(const std::vector<Piece>& pieces) {
    std::vector<llama_token> tokens;
    Owners owners;
    std::vector<llama_pos> positions;
    for (const Piece& piece : pieces) {
      for (const llama_token token : piece.tokens) {
        tokens.push_back(token);
        positions.push_back(next_[piece.sequence]++);
        owners.add(piece.sequence, piece.more);
      }
      for (const llama_seq_id other : piece.more) next_[other] = next_[piece.sequence];
    }
    return logits(tokens.data(), nullptr, positions, owners);
  }

  /// The same of embeddings. In models with M-RoPE those of an image are at one position, in rows
  /// and columns.
  Rows show(const std::vector<Image>& images) {
    const llama_model* model = llama_get_model(context());
    const bool is_plane = llama_cpp::has_planes(model);
    Owners owners;
    std::vector<llama_pos> times, rows, columns;
    for (const Image& image : images) {
      const llama_pos first = next_[image.sequence];
      for (int i = 0; i < image.size(); ++i) {
        times.push_back(is_plane ? first : first + i);
        rows.push_back(first + i / image.columns);
        columns.push_back(first + i % image.columns);
        owners.add(image.sequence, image.more);
      }
      next_[image.sequence] += is_plane ? std::max(image.rows, image.columns) : image.size();
      for (const llama_seq_id other : image.more) next_[other] = next_[image.sequence];
    }
    std::vector<float> embeddings(times.size() *
                                  static_cast<std::size_t>(llama_model_n_embd_inp(model)));
    for (std::size_t i = 0; i < embeddings.size(); ++i)
      embeddings[i] = static_cast<float>(1.4 * std::sin(0.37 * static_cast<double>(i * i % 9973)));
    std::vector<llama_pos> positions = times;
    if (is_plane) {
      positions.insert(positions.end(), rows.begin(), rows.end());
      positions.insert(positions.end(), columns.begin(), columns.end());
      positions.resize(4 * times.size(), 0);
    }
    return logits(nullptr, embeddings.data(), positions, owners);
  }

  virtual void set_causal(bool is_causal) { llama_set_causal_attn(context(), is_causal); }

  bool cut(llama_seq_id sequence, llama_pos size) {
    if (!remove(sequence, size, -1)) return false;
    next_[sequence] = std::min(next_[sequence], size);
    return true;
  }
  /// Takes positions [begin, end) out.
  void take_out(llama_seq_id sequence, llama_pos begin, llama_pos end) {
    if (!remove(sequence, begin, end)) throw std::runtime_error("cannot remove");
  }
  /// And moves those that follow, up to `moved_end`, to where they were.
  void close_gap(llama_seq_id sequence, llama_pos begin, llama_pos end, llama_pos moved_end) {
    take_out(sequence, begin, end);
    move(sequence, end, moved_end, begin - end);
    if (moved_end == size(sequence)) next_[sequence] -= end - begin;
  }
  void fork(llama_seq_id from, llama_seq_id to) {
    copy(from, to);
    next_[to] = next_[from];
  }
  void restore(const std::string& state, llama_seq_id sequence, llama_pos size) {
    load(state, sequence);
    next_[sequence] = size;
  }
  llama_pos size(llama_seq_id sequence) { return next_[sequence]; }

  virtual llama_context* context() = 0;
  virtual std::string save(llama_seq_id sequence) = 0;

 protected:
  virtual std::int32_t compute(const llama_batch& batch) = 0;
  virtual bool remove(llama_seq_id sequence, llama_pos begin, llama_pos end) = 0;
  virtual void move(llama_seq_id sequence, llama_pos begin, llama_pos end, llama_pos delta) = 0;
  virtual void copy(llama_seq_id from, llama_seq_id to) = 0;
  virtual void load(const std::string& state, llama_seq_id sequence) = 0;

 private:
  /// Which sequences each token of a batch belongs to.
  struct Owners {
    std::vector<std::vector<llama_seq_id>> sequences;
    std::vector<std::int32_t> counts;

    void add(llama_seq_id sequence, const std::vector<llama_seq_id>& more) {
      sequences.push_back({sequence});
      sequences.back().insert(sequences.back().end(), more.begin(), more.end());
      counts.push_back(static_cast<std::int32_t>(sequences.back().size()));
    }
  };

  Rows logits(llama_token* tokens, float* embeddings, std::vector<llama_pos>& positions,
              Owners& owners) {
    std::vector<llama_seq_id*> lists;
    for (std::vector<llama_seq_id>& set : owners.sequences) lists.push_back(set.data());
    std::vector<std::int8_t> wanted(lists.size(), 1);
    const llama_batch batch{static_cast<std::int32_t>(lists.size()),
                            tokens,
                            embeddings,
                            positions.data(),
                            owners.counts.data(),
                            lists.data(),
                            wanted.data()};
    if (const std::int32_t status = compute(batch); status != 0)
      throw std::runtime_error("decode returns " + std::to_string(status));
    Rows rows;
    for (std::int32_t i = 0; i < batch.n_tokens; ++i) {
      const float* row = llama_get_logits_ith(context(), i);
      rows.emplace_back(row, row + vocabulary_);
    }
    return rows;
  }

  int vocabulary_;
  std::map<llama_seq_id, llama_pos> next_;
};

/// llama.cpp as it is.
class OwnSession : public Session {
 public:
  OwnSession(llama_model* model, const llama_context_params& params)
      : Session(llama_vocab_n_tokens(llama_model_get_vocab(model))),
        context_(llama_init_from_model(model, params)) {
    if (!context_) throw std::runtime_error("llama.cpp has no context");
  }
  llama_context* context() override { return context_.get(); }
  std::string save(llama_seq_id sequence) override {
    std::string state(llama_state_seq_get_size(context(), sequence), '\0');
    llama_state_seq_get_data(context(), reinterpret_cast<std::uint8_t*>(state.data()), state.size(),
                             sequence);
    return state;
  }

 protected:
  std::int32_t compute(const llama_batch& batch) override { return llama_decode(context(), batch); }
  bool remove(llama_seq_id sequence, llama_pos begin, llama_pos end) override {
    return llama_memory_seq_rm(llama_get_memory(context()), sequence, begin, end);
  }
  void move(llama_seq_id sequence, llama_pos begin, llama_pos end, llama_pos delta) override {
    llama_memory_seq_add(llama_get_memory(context()), sequence, begin, end, delta);
  }
  void copy(llama_seq_id from, llama_seq_id to) override {
    llama_memory_seq_rm(llama_get_memory(context()), to, -1, -1);
    llama_memory_seq_cp(llama_get_memory(context()), from, to, -1, -1);
  }
  void load(const std::string& state, llama_seq_id sequence) override {
    if (llama_state_seq_set_data(context(), reinterpret_cast<const std::uint8_t*>(state.data()),
                                 state.size(), sequence) == 0)
      throw std::runtime_error("llama.cpp does not load its own state");
  }

 private:
  llama_context_ptr context_;
};

/// On a SQuat cache.
class SquatSession : public Session {
 public:
  SquatSession(llama_model* model, const llama_context_params& params, const Config& config)
      : Session(llama_vocab_n_tokens(llama_model_get_vocab(model))),
        context_(model, params, config) {}
  llama_context* context() override { return context_; }
  std::string save(llama_seq_id sequence) override {
    std::ostringstream out;
    context_.sequences().save(out, sequence);
    return out.str();
  }
  void set_causal(bool is_causal) override {
    Session::set_causal(is_causal);
    context_.set_causal(is_causal);
  }
  LlamaContext& own() { return context_; }

 protected:
  std::int32_t compute(const llama_batch& batch) override { return context_.decode(batch); }
  bool remove(llama_seq_id sequence, llama_pos begin, llama_pos end) override {
    return context_.sequences().remove(sequence, begin, end);
  }
  void move(llama_seq_id sequence, llama_pos begin, llama_pos end, llama_pos delta) override {
    context_.sequences().shift(sequence, begin, end, delta);
  }
  void copy(llama_seq_id from, llama_seq_id to) override {
    context_.sequences().remove(to, -1, -1);
    context_.sequences().copy(from, to, -1, -1);
  }
  void load(const std::string& state, llama_seq_id sequence) override {
    std::istringstream in(state);
    context_.sequences().load(in, sequence);
  }

 private:
  LlamaContext context_;
};

}  // namespace squat::testing
