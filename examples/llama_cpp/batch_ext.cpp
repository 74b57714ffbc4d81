// Batches of llama.cpp since October 2026, which programs fill token by token: what they hold is
// noted on the way, for there is no function that tells.
#include "next_function.hpp"
#include "registry.hpp"

namespace {

using squat_preload::find;
using squat_preload::guarded_batch;

/// What programs have put into their batches.
struct Batch {
  bool has_planes = false;  ///< its model
  std::vector<squat::llama_cpp::BatchToken> tokens = {};
  std::vector<bool> are_text = {};  ///< those that have an id, and so one position

  void set_position(std::size_t index, const llama_pos* position) {
    using squat::llama_cpp::Place;
    tokens.at(index).place = has_planes && !are_text.at(index)
                                 ? Place{position[0], position[1], position[2]}
                                 : Place::of_text(*position);
  }
};

class Batches {
 public:
  static Batches& instance() {
    static Batches batches;
    return batches;
  }

  template <class Change>
  void change(const llama_batch_ext* batch, const Change& change) {
    const std::lock_guard lock(mutex_);
    change(batches_[batch]);
  }
  Batch get(const llama_batch_ext* batch) {
    const std::lock_guard lock(mutex_);
    return batches_[batch];
  }
  void forget(const llama_batch_ext* batch) {
    const std::lock_guard lock(mutex_);
    batches_.erase(batch);
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const llama_batch_ext*, Batch> batches_;
};

/// `result` is what llama.cpp says of a new token: its number, or -2 where it is there but not
/// good.
std::int32_t note_token(const llama_batch_ext* batch, llama_seq_id sequence, bool is_text,
                        std::int32_t result) {
  if (result >= 0 || result == -2)
    Batches::instance().change(batch, [&](Batch& noted) {
      noted.tokens.push_back({sequence});
      noted.are_text.push_back(is_text && result >= 0);
    });
  return result;
}

}  // namespace

extern "C" {

llama_batch_ext* llama_batch_ext_init(llama_context* context) {
  llama_batch_ext* batch = SQUAT_NEXT(llama_batch_ext_init)(context);
  Batches::instance().change(batch, [&](Batch& noted) {
    noted = {squat::llama_cpp::has_planes(llama_get_model(context))};
  });
  return batch;
}

void llama_batch_ext_free(llama_batch_ext* batch) {
  Batches::instance().forget(batch);
  SQUAT_NEXT(llama_batch_ext_free)(batch);
}

void llama_batch_ext_clear(llama_batch_ext* batch) {
  Batches::instance().change(batch, [](Batch& noted) { noted = {noted.has_planes}; });
  SQUAT_NEXT(llama_batch_ext_clear)(batch);
}

int32_t llama_batch_ext_add(llama_batch_ext* batch, llama_seq_id sequence) {
  return note_token(batch, sequence, false, SQUAT_NEXT(llama_batch_ext_add)(batch, sequence));
}

int32_t llama_batch_ext_add_token(llama_batch_ext* batch, llama_seq_id sequence, llama_token id) {
  return note_token(batch, sequence, true,
                    SQUAT_NEXT(llama_batch_ext_add_token)(batch, sequence, id));
}

int32_t llama_batch_ext_add_embd(llama_batch_ext* batch, llama_seq_id sequence, llama_embd embd) {
  return note_token(batch, sequence, false,
                    SQUAT_NEXT(llama_batch_ext_add_embd)(batch, sequence, embd));
}

bool llama_batch_ext_add_seq(llama_batch_ext* batch, int32_t index, llama_seq_id sequence) {
  const bool is_added = SQUAT_NEXT(llama_batch_ext_add_seq)(batch, index, sequence);
  if (is_added)
    Batches::instance().change(batch, [&](Batch& noted) {
      squat::llama_cpp::BatchToken& token = noted.tokens.at(static_cast<std::size_t>(index));
      if (!token.is_of(sequence)) token.more.push_back(sequence);
    });
  return is_added;
}

bool llama_batch_ext_set_pos(llama_batch_ext* batch, int32_t index, const llama_pos* position) {
  const bool is_set = SQUAT_NEXT(llama_batch_ext_set_pos)(batch, index, position);
  if (is_set)
    Batches::instance().change(batch, [&](Batch& noted) {
      noted.set_position(static_cast<std::size_t>(index), position);
    });
  return is_set;
}

int32_t llama_process(llama_context* context, llama_process_type type, llama_batch_ext* batch) {
  squat::LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_process)(context, type, batch);
  return guarded_batch(*own, [&] {
    squat::require(type == LLAMA_PROCESS_TYPE_DECODE,
                   "llama_process: a context on a SQuat cache only decodes");
    return own->process(Batches::instance().get(batch).tokens,
                        [&] { return SQUAT_NEXT(llama_process)(context, type, batch); });
  });
}

}  // extern "C"
