// States of contexts and sequences, to memory and to files.
#include <array>
#include <fstream>
#include <squat/llama_cpp/buffer_streams.hpp>

#include "next_function.hpp"
#include "registry.hpp"

namespace {

using squat::LlamaContext;
using squat_preload::find;
using squat_preload::guarded;
using squat_preload::report;

constexpr llama_seq_id all = -1;

/// What a state holds.
enum class Part { whole, states, nothing };

/// A partial state holds what a sequence cannot be cut back to: the states of recurrent layers.
/// With windows it is the whole state, and nothing without either.
Part part(const LlamaContext& context, llama_state_seq_flags flags) {
  if ((flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == 0) return Part::whole;
  if (context.sequences().have_states()) return Part::states;
  const squat::ModelShape& shape = context.cache().shape();
  for (squat::Index layer = 0; layer < shape.layers; ++layer)
    if (shape.layer(layer).window > 0) return Part::whole;
  return Part::nothing;
}

void save(const LlamaContext& context, std::ostream& out, llama_seq_id sequence,
          Part part = Part::whole) {
  if (part == Part::nothing) return;
  if (part == Part::states)
    context.sequences().save_states(out, sequence);
  else if (sequence == all)
    context.sequences().save(out);
  else
    context.sequences().save(out, sequence);
}

void load(LlamaContext& context, std::istream& in, llama_seq_id sequence, Part part = Part::whole) {
  if (part == Part::nothing) return;
  if (part == Part::states)
    context.sequences().load_states(in, sequence);
  else if (sequence == all)
    context.sequences().load(in);
  else
    context.sequences().load(in, sequence);
}

size_t state_size(const LlamaContext& context, llama_seq_id sequence, Part part = Part::whole) {
  return guarded(std::size_t{0}, [&] {
    squat::llama_cpp::CountingBuffer buffer;
    std::ostream out(&buffer);
    save(context, out, sequence, part);
    return buffer.count();
  });
}

size_t get_state(const LlamaContext& context, std::uint8_t* data, size_t size,
                 llama_seq_id sequence, Part part = Part::whole) {
  return guarded(std::size_t{0}, [&] {
    squat::llama_cpp::WritingBuffer buffer(data, size);
    std::ostream out(&buffer);
    save(context, out, sequence, part);
    return buffer.count();
  });
}

size_t set_state(LlamaContext& context, const std::uint8_t* data, size_t size,
                 llama_seq_id sequence, Part part = Part::whole) {
  return guarded(std::size_t{0}, [&] {
    squat::llama_cpp::ReadingBuffer buffer(data, size);
    std::istream in(&buffer);
    load(context, in, sequence, part);
    return buffer.count();
  });
}

/// A file: char magic[8]; uint64 count; int32 token[count]; then the state. Another magic than
/// llama.cpp's, which cannot read the state.
using Magic = std::array<char, 8>;
Magic magic(llama_seq_id sequence) {
  return sequence == all ? Magic{'S', 'Q', 'U', 'A', 'T', 'L', 'A', '1'}
                         : Magic{'S', 'Q', 'U', 'A', 'T', 'L', 'S', '1'};
}

/// Returns the bytes written, or 0.
size_t save_file(const LlamaContext& context, const char* path, llama_seq_id sequence,
                 const llama_token* tokens, size_t count) {
  return guarded(std::size_t{0}, [&] {
    std::ofstream out(path, std::ios::binary);
    squat::require(out.is_open(), "'", path, "' cannot be written");
    const std::uint64_t number = count;
    out.write(magic(sequence).data(), 8);
    out.write(reinterpret_cast<const char*>(&number), sizeof number);
    out.write(reinterpret_cast<const char*>(tokens),
              static_cast<std::streamsize>(count * sizeof *tokens));
    save(context, out, sequence);
    out.flush();
    squat::require(out.good(), "'", path, "' could not be written to its end");
    return static_cast<std::size_t>(out.tellp());
  });
}

/// Returns the bytes read, or 0. Without `tokens` it only counts them, and loads nothing.
size_t load_file(LlamaContext& context, const char* path, llama_seq_id sequence,
                 llama_token* tokens, size_t capacity, size_t* count) {
  return guarded(std::size_t{0}, [&] {
    std::ifstream in(path, std::ios::binary);
    squat::require(in.is_open(), "'", path, "' cannot be read");
    Magic found{};
    std::uint64_t number = 0;
    in.read(found.data(), 8);
    in.read(reinterpret_cast<char*>(&number), sizeof number);
    squat::require(in.good() && found == magic(sequence), "'", path, "' is no state of a ",
                   sequence == all ? "context" : "sequence", " on a SQuat cache");
    squat::require(number <= static_cast<std::uint64_t>(context.n_ctx()), "'", path, "' has ",
                   number, " tokens; the context may have ", context.n_ctx());
    if (tokens == nullptr) {
      *count = number;
      return static_cast<std::size_t>(in.tellg());
    }
    squat::require(number <= capacity, "'", path, "' has ", number, " tokens; there is room for ",
                   capacity);
    std::vector<llama_token> read(number);
    in.read(reinterpret_cast<char*>(read.data()),
            static_cast<std::streamsize>(number * sizeof(llama_token)));
    squat::require(in.good(), "'", path, "' ends within its tokens");
    load(context, in, sequence);
    std::copy(read.begin(), read.end(), tokens);
    *count = number;
    return static_cast<std::size_t>(in.tellg());
  });
}

}  // namespace

extern "C" {

// Of a sequence, in memory.

size_t llama_state_seq_get_size_ext(llama_context* context, llama_seq_id sequence,
                                    llama_state_seq_flags flags) {
  const LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_state_seq_get_size_ext)(context, sequence, flags);
  return state_size(*own, sequence, part(*own, flags));
}

size_t llama_state_seq_get_data_ext(llama_context* context, uint8_t* data, size_t size,
                                    llama_seq_id sequence, llama_state_seq_flags flags) {
  const LlamaContext* own = find(context);
  if (own == nullptr)
    return SQUAT_NEXT(llama_state_seq_get_data_ext)(context, data, size, sequence, flags);
  return get_state(*own, data, size, sequence, part(*own, flags));
}

size_t llama_state_seq_set_data_ext(llama_context* context, const uint8_t* data, size_t size,
                                    llama_seq_id sequence, llama_state_seq_flags flags) {
  LlamaContext* own = find(context);
  if (own == nullptr)
    return SQUAT_NEXT(llama_state_seq_set_data_ext)(context, data, size, sequence, flags);
  return set_state(*own, data, size, sequence, part(*own, flags));
}

size_t llama_state_seq_get_size(llama_context* context, llama_seq_id sequence) {
  return llama_state_seq_get_size_ext(context, sequence, 0);
}

size_t llama_state_seq_get_data(llama_context* context, uint8_t* data, size_t size,
                                llama_seq_id sequence) {
  return llama_state_seq_get_data_ext(context, data, size, sequence, 0);
}

size_t llama_state_seq_set_data(llama_context* context, const uint8_t* data, size_t size,
                                llama_seq_id sequence) {
  return llama_state_seq_set_data_ext(context, data, size, sequence, 0);
}

// Of a sequence, in a file.

size_t llama_state_seq_save_file(llama_context* context, const char* path, llama_seq_id sequence,
                                 const llama_token* tokens, size_t count) {
  const LlamaContext* own = find(context);
  if (own == nullptr)
    return SQUAT_NEXT(llama_state_seq_save_file)(context, path, sequence, tokens, count);
  return save_file(*own, path, sequence, tokens, count);
}

size_t llama_state_seq_load_file(llama_context* context, const char* path, llama_seq_id sequence,
                                 llama_token* tokens, size_t capacity, size_t* count) {
  LlamaContext* own = find(context);
  if (own == nullptr)
    return SQUAT_NEXT(llama_state_seq_load_file)(context, path, sequence, tokens, capacity, count);
  return load_file(*own, path, sequence, tokens, capacity, count);
}

// Of a context.

size_t llama_state_get_size(llama_context* context) {
  const LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_state_get_size)(context);
  return state_size(*own, all);
}

size_t llama_state_get_data(llama_context* context, uint8_t* data, size_t size) {
  const LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_state_get_data)(context, data, size);
  return get_state(*own, data, size, all);
}

size_t llama_state_set_data(llama_context* context, const uint8_t* data, size_t size) {
  LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_state_set_data)(context, data, size);
  return set_state(*own, data, size, all);
}

bool llama_state_save_file(llama_context* context, const char* path, const llama_token* tokens,
                           size_t count) {
  const LlamaContext* own = find(context);
  if (own == nullptr) return SQUAT_NEXT(llama_state_save_file)(context, path, tokens, count);
  return save_file(*own, path, all, tokens, count) > 0;
}

bool llama_state_load_file(llama_context* context, const char* path, llama_token* tokens,
                           size_t capacity, size_t* count) {
  LlamaContext* own = find(context);
  if (own == nullptr)
    return SQUAT_NEXT(llama_state_load_file)(context, path, tokens, capacity, count);
  return load_file(*own, path, all, tokens, capacity, count) > 0;
}

// Under their old names.

size_t llama_get_state_size(llama_context* context) { return llama_state_get_size(context); }

size_t llama_copy_state_data(llama_context* context, uint8_t* data) {
  return llama_state_get_data(context, data, llama_state_get_size(context));
}

size_t llama_set_state_data(llama_context* context, const uint8_t* data) {
  if (find(context) == nullptr) return llama_state_set_data(context, data, SIZE_MAX);
  report("llama_set_state_data: the size of the state is needed; use llama_state_set_data");
  return 0;
}

bool llama_load_session_file(llama_context* context, const char* path, llama_token* tokens,
                             size_t capacity, size_t* count) {
  return llama_state_load_file(context, path, tokens, capacity, count);
}

bool llama_save_session_file(llama_context* context, const char* path, const llama_token* tokens,
                             size_t count) {
  return llama_state_save_file(context, path, tokens, count);
}

}  // extern "C"
