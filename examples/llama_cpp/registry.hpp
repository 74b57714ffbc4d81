// Which contexts of the program are on a SQuat cache.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <squat/llama_cpp.hpp>

#include "settings.hpp"

namespace squat_preload {

using squat::LlamaContext;

/// The contexts that are on a SQuat cache, and models that only pretend to be loaded. Any thread
/// may call.
class Registry {
 public:
  static Registry& instance() {
    static Registry registry;
    return registry;
  }

  void add(std::unique_ptr<LlamaContext> context) {
    const std::lock_guard lock(mutex_);
    by_memory_[context->memory()] = context.get();
    const llama_context* handle = context->get();
    contexts_[handle] = std::move(context);
  }

  /// Null for contexts that are llama.cpp's own.
  LlamaContext* find(const llama_context* context) {
    const std::lock_guard lock(mutex_);
    const auto found = contexts_.find(context);
    return found == contexts_.end() ? nullptr : found->second.get();
  }
  LlamaContext* find(llama_memory_t memory) {
    const std::lock_guard lock(mutex_);
    const auto found = by_memory_.find(memory);
    return found == by_memory_.end() ? nullptr : found->second;
  }

  std::unique_ptr<LlamaContext> remove(const llama_context* context) {
    const std::lock_guard lock(mutex_);
    const auto found = contexts_.find(context);
    std::unique_ptr<LlamaContext> removed = std::move(found->second);
    by_memory_.erase(removed->memory());
    contexts_.erase(found);
    return removed;
  }

  /// Notes a model that has no weights, with which programs learn how much memory it takes.
  void note_without_weights(const llama_model* model) {
    const std::lock_guard lock(mutex_);
    without_weights_.insert(model);
  }
  void forget(const llama_model* model) {
    const std::lock_guard lock(mutex_);
    without_weights_.erase(model);
  }
  bool has_weights(const llama_model* model) {
    const std::lock_guard lock(mutex_);
    return without_weights_.count(model) == 0;
  }

 private:
  std::mutex mutex_;
  std::map<const llama_context*, std::unique_ptr<LlamaContext>> contexts_;
  std::map<llama_memory_t, LlamaContext*> by_memory_;
  std::set<const llama_model*> without_weights_;
};

/// The context of a llama_context or a llama_memory_t, or null: then the call is llama.cpp's.
template <class Handle>
LlamaContext* find(Handle handle) {
  return Settings::is_active() ? Registry::instance().find(handle) : nullptr;
}

inline void report(const std::string& error) {
  const bool is_ours = error.compare(0, 6, "squat:") == 0;
  std::fprintf(stderr, "%s%s\n", is_ours ? "" : "squat: ", error.c_str());
}

/// What `work` returns, or `failed` after an error, which is reported: llama.h is C.
template <class Result, class Work>
Result guarded(Result failed, const Work& work) {
  try {
    return work();
  } catch (const std::exception& error) {
    report(error.what());
    return failed;
  }
}

/// The same for work on a batch, as llama.h has it: -1, nothing has changed; -3, some of the batch
/// is in the cache.
template <class Work>
std::int32_t guarded_batch(const LlamaContext& context, const Work& work) {
  const squat::Index before = context.sequences().total();
  const std::int32_t result = guarded(-1, work);
  return result == -1 && context.sequences().total() != before ? -3 : result;
}

}  // namespace squat_preload
