// The functions of llama.cpp that a context on a SQuat cache calls where a program calls squat's.
#pragma once

#include <llama.h>

namespace squat::llama_cpp {

/// llama.cpp's own versions of functions that a library which stands before it replaces. Everything
/// else of llama.h is called by name.
struct Functions {
  decltype(&::llama_init_from_model) init_from_model;
  decltype(&::llama_free) free;
  decltype(&::llama_decode) decode;
  decltype(&::llama_memory_clear) memory_clear;
  decltype(&::llama_memory_seq_rm) memory_seq_rm;
  decltype(&::llama_memory_seq_cp) memory_seq_cp;
  decltype(&::llama_state_seq_get_size_ext) state_seq_get_size_ext;
  decltype(&::llama_state_seq_get_data_ext) state_seq_get_data_ext;
  decltype(&::llama_state_seq_set_data_ext) state_seq_set_data_ext;
  decltype(&::llama_set_abort_callback) set_abort_callback;

  /// Those that the program is linked to.
  static Functions linked() {
    return {&::llama_init_from_model,
            &::llama_free,
            &::llama_decode,
            &::llama_memory_clear,
            &::llama_memory_seq_rm,
            &::llama_memory_seq_cp,
            &::llama_state_seq_get_size_ext,
            &::llama_state_seq_get_data_ext,
            &::llama_state_seq_set_data_ext,
            &::llama_set_abort_callback};
  }
};

}  // namespace squat::llama_cpp
