// A program of llama.cpp that knows nothing of squat: writes the logits of a script of calls.
//
//   preload_program write FILE          writes the logits of the script
//   preload_program compare FILE ERROR  compares with those in a file: |a - b| / |a| is at most
//                                       ERROR, and not 0 where that is not 0
//   preload_program refuse              does what a SQuat cache must refuse; fails if it does not
//
// Its tests run it as it is, then with libsquat_llama.so preloaded.
#include <llama-cpp.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tiny_session.hpp"

namespace {

using squat::testing::some_tokens;

void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error("not so: " + what);
}

class Program {
 public:
  Program() {
    context_.reset(make_context());
    expect(context_ != nullptr, "there is a context");
    memory_ = llama_get_memory(context_.get());
  }

  /// Calls that any cache serves; returns all logits.
  std::vector<float> serve() {
    expect(llama_n_ctx(context_.get()) == 1024 && llama_n_ctx_seq(context_.get()) == 1024,
           "the context has the size that it was asked for");
    decode(0, some_tokens(100), 0);
    decode(1, some_tokens(40), 0);
    expect(llama_memory_seq_pos_min(memory_, 0) == 0, "positions begin at 0");
    expect(llama_memory_seq_pos_max(memory_, 0) == 99, "100 tokens end at 99");
    expect(llama_memory_seq_pos_max(memory_, 2) == -1, "there is no sequence 2");
    expect(llama_memory_seq_rm(memory_, 0, 90, -1), "the end can be removed");
    decode(0, some_tokens(20), 90);

    llama_memory_seq_cp(memory_, 0, 2, -1, -1);
    decode(2, {7}, 110);
    decode(0, {8}, 110);

    std::vector<std::uint8_t> state(llama_state_seq_get_size(context_.get(), 1));
    expect(llama_state_seq_get_data(context_.get(), state.data(), state.size(), 1) == state.size(),
           "the state has the size that was told");
    expect(llama_memory_seq_rm(memory_, 1, -1, -1), "a sequence can be removed");
    expect(llama_state_seq_set_data(context_.get(), state.data(), state.size(), 1) == state.size(),
           "the state is read to its end");
    decode(1, some_tokens(10), 40);

    const squat::testing::TemporaryFile sequence_file, file;
    const std::vector<llama_token> tokens = some_tokens(50);
    std::vector<llama_token> read(60);
    std::size_t count = 0;
    const std::size_t written = llama_state_seq_save_file(
        context_.get(), sequence_file.path().c_str(), 1, tokens.data(), tokens.size());
    expect(written > 0, "a sequence is saved");
    expect(llama_state_seq_load_file(context_.get(), sequence_file.path().c_str(), 0, read.data(),
                                     read.size(), &count) == written,
           "the file is read to its end");
    read.resize(count);
    expect(read == tokens, "the tokens are those that were saved");
    decode(0, {9}, 50);

    expect(llama_state_save_file(context_.get(), file.path().c_str(), tokens.data(), tokens.size()),
           "the context is saved");
    llama_memory_clear(memory_, true);
    expect(llama_memory_seq_pos_max(memory_, 0) == -1, "nothing is left");
    read.resize(60);
    expect(llama_state_load_file(context_.get(), file.path().c_str(), read.data(), read.size(),
                                 &count),
           "the context is loaded");
    expect(count == tokens.size(), "as many tokens as were saved");
    decode(1, {10}, 50);

    std::vector<std::uint8_t> all(llama_state_get_size(context_.get()));
    expect(llama_state_get_data(context_.get(), all.data(), all.size()) == all.size(),
           "the state of all has the size that was told");
    llama_memory_seq_keep(memory_, 1);
    expect(llama_memory_seq_pos_max(memory_, 0) == -1, "only sequence 1 is left");
    expect(llama_state_set_data(context_.get(), all.data(), all.size()) == all.size(),
           "the state of all is read to its end");
    decode(0, {11}, 51);
    decode(2, {12}, 111);

    expect(llama_memory_can_shift(memory_), "positions can be moved");
    expect(llama_memory_seq_rm(memory_, 2, 10, 30), "the middle can be removed");
    llama_memory_seq_add(memory_, 2, 30, -1, -20);
    expect(llama_memory_seq_pos_max(memory_, 2) == 91, "the end has moved");
    decode(2, {13, 14}, 92);

    llama_set_causal_attn(context_.get(), false);
    decode(2, some_tokens(20), 94);
    llama_set_causal_attn(context_.get(), true);
    decode(2, {15}, 114);
    return logits_;
  }

  /// Calls that a SQuat cache refuses.
  void refuse() {
    decode(0, some_tokens(100), 0);
    llama_memory_seq_add(memory_, 0, 50, -1, -10);
    expect(status(0, {5}, 90) != 0 && status(0, {5}, 100) != 0,
           "a sequence that should have moved over others does not go on");
    expect(llama_memory_seq_rm(memory_, 0, -1, -1), "it can be removed");
    decode(0, some_tokens(100), 0);
    llama_memory_seq_div(memory_, 0, 50, -1, 2);
    expect(status(0, {5}, 100) != 0, "a sequence that should have been divided does not go on");
    expect(llama_memory_seq_rm(memory_, 0, -1, -1), "it can be removed");
    decode(0, {5}, 0);
    decode(1, some_tokens(20), 0);
    llama_memory_seq_cp(memory_, 0, 1, -1, -1);
    expect(status(1, {5}, 1) != 0 && status(1, {5}, 20) != 0,
           "a sequence that should have been mixed with another does not go on");
    expect(status(2, {5}, 7) != 0, "a sequence does not begin at 7");
    std::vector<std::uint8_t> state(llama_state_seq_get_size(context_.get(), 0));
    llama_state_seq_get_data(context_.get(), state.data(), state.size(), 0);
    state[state.size() / 2] ^= 1;
    expect(llama_state_seq_set_data(context_.get(), state.data(), state.size(), 2) == 0,
           "a damaged state is not loaded");
    llama_set_causal_attn(context_.get(), false);
    expect(status(0, some_tokens(33), 1) != 0, "more than n_ubatch tokens do not see one another");
    llama_set_causal_attn(context_.get(), true);
    decode(0, {5}, 1);
    llama_context_params params = params_of();
    params.type_k = GGML_TYPE_Q8_0;
    expect(llama_init_from_model(model_.get(), params) == nullptr, "cache types are refused");
  }

 private:
  static llama_context_params params_of() {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 1024;
    params.n_batch = 128;
    params.n_ubatch = 32;
    params.n_seq_max = 3;
    params.kv_unified = true;
    params.n_threads = params.n_threads_batch = 2;
    return params;
  }
  llama_context* make_context() { return llama_init_from_model(model_.get(), params_of()); }

  std::int32_t status(llama_seq_id sequence, std::vector<llama_token> tokens, llama_pos position) {
    const auto count = static_cast<std::int32_t>(tokens.size());
    std::vector<llama_pos> positions;
    std::vector<llama_seq_id*> lists(tokens.size(), &sequence);
    std::vector<std::int32_t> counts(tokens.size(), 1);
    std::vector<std::int8_t> wanted(tokens.size(), 1);
    for (std::int32_t i = 0; i < count; ++i) positions.push_back(position + i);
    return llama_decode(context_.get(), {count, tokens.data(), nullptr, positions.data(),
                                         counts.data(), lists.data(), wanted.data()});
  }

  void decode(llama_seq_id sequence, const std::vector<llama_token>& tokens, llama_pos position) {
    expect(status(sequence, tokens, position) == 0, "the batch is decoded");
    const std::size_t size =
        tokens.size() *
        static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model_.get())));
    const float* logits = llama_get_logits(context_.get());
    logits_.insert(logits_.end(), logits, logits + size);
  }

  llama_model_ptr model_ = squat::testing::tiny_model({});
  llama_context_ptr context_;
  llama_memory_t memory_ = nullptr;
  std::vector<float> logits_;
};

#if defined(SQUAT_LLAMA_HAS_PROCESS)
/// An image between texts, as llama.cpp's programs show it to a model with M-RoPE: in batches that
/// are filled token by token. Returns the logits.
std::vector<float> show_image() {
  squat::testing::TinyModel description;
  description.architecture = "qwen2vl";
  const llama_model_ptr model = squat::testing::tiny_model(description);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 256;
  params.n_threads = params.n_threads_batch = 2;
  const llama_context_ptr context(llama_init_from_model(model.get(), params));
  expect(context != nullptr, "there is a context for images");
  const llama_batch_ext_ptr batch(llama_batch_ext_init(context.get()));
  std::vector<float> logits;
  const auto process = [&] {
    expect(llama_process(context.get(), LLAMA_PROCESS_TYPE_DECODE, batch.get()) == 0,
           "the batch is processed");
    const float* last = llama_get_logits_ith(context.get(), -1);
    logits.insert(logits.end(), last, last + description.vocabulary);
    llama_batch_ext_clear(batch.get());
  };
  const auto say = [&](const std::vector<llama_token>& tokens, llama_pos position) {
    std::int32_t index = -1;
    for (const llama_token token : tokens) {
      index = llama_batch_ext_add_token(batch.get(), 0, token);
      expect(llama_batch_ext_set_pos(batch.get(), index, &position), "a token has a position");
      ++position;
    }
    llama_batch_ext_set_output_logits(batch.get(), index, true);
    process();
  };
  const auto show = [&](llama_pos rows, llama_pos columns, llama_pos position) {
    const auto width = static_cast<std::size_t>(llama_model_n_embd_inp(model.get()));
    std::vector<float> embedding(width);
    std::int32_t index = -1;
    for (llama_pos i = 0; i < rows * columns; ++i) {
      for (std::size_t c = 0; c < width; ++c)
        embedding[c] = static_cast<float>(std::sin(static_cast<double>(c * c % 997) + i));
      index = llama_batch_ext_add_embd(batch.get(), 0, {embedding.data(), 1, width});
      const llama_pos place[] = {position, position + i / columns, position + i % columns, 0};
      expect(llama_batch_ext_set_pos(batch.get(), index, place), "a token has a place");
    }
    llama_batch_ext_set_output_logits(batch.get(), index, true);
    process();
  };
  say(some_tokens(20), 0);
  show(4, 6, 20);
  say({5, 6, 7}, 26);
  llama_set_causal_attn(context.get(), false);
  show(7, 3, 29);
  llama_set_causal_attn(context.get(), true);
  say({8}, 36);
  const llama_memory_t memory = llama_get_memory(context.get());
  expect(llama_memory_seq_rm(memory, 0, 30, -1), "what follows the image is removed");
  expect(llama_memory_seq_pos_max(memory, 0) == 29, "the image is there");
  say({9}, 36);
  return logits;
}
#endif

std::vector<float> logits(Program& program) {
  std::vector<float> all = program.serve();
#if defined(SQUAT_LLAMA_HAS_PROCESS)
  const std::vector<float> more = show_image();
  all.insert(all.end(), more.begin(), more.end());
#endif
  return all;
}

void write(const std::vector<float>& logits, const char* path) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(logits.data()),
             static_cast<std::streamsize>(logits.size() * sizeof(float)));
  expect(file.flush().good(), std::string(path) + " is written");
}

void compare(const std::vector<float>& logits, const char* path, double allowed) {
  std::vector<float> expected(logits.size());
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(expected.data()),
            static_cast<std::streamsize>(expected.size() * sizeof(float)));
  expect(file.good() && file.peek() == std::ifstream::traits_type::eof(),
         std::string(path) + " has as many logits");
  double error = 0, size = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double difference = static_cast<double>(logits[i]) - static_cast<double>(expected[i]);
    error += difference * difference;
    size += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  const double relative = std::sqrt(error / size);
  std::printf("relative error %g, allowed %g\n", relative, allowed);
  expect(relative <= allowed, "logits differ by no more than is allowed");
  expect((relative > 0) == (allowed > 0), "logits differ where another cache is asked for");
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const std::string command = count > 1 ? arguments[1] : "";
    Program program;
    if (command == "write" && count == 3)
      write(logits(program), arguments[2]);
    else if (command == "compare" && count == 4)
      compare(logits(program), arguments[2], std::stod(arguments[3]));
    else if (command == "refuse" && count == 2)
      program.refuse();
    else
      throw std::runtime_error("arguments: write FILE | compare FILE ERROR | refuse");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
