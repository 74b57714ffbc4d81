// llama.cpp's own versions of the functions that this library stands before.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

namespace squat_preload {

/// The next function of that name that the dynamic linker knows, behind ours. The program cannot go
/// on without.
template <class Function>
Function next_function(const char* name) {
  void* address = dlsym(RTLD_NEXT, name);
  if (address == nullptr) {
    std::fprintf(stderr,
                 "squat: llama.cpp has no %s, or is not linked to this program: libsquat_llama.so "
                 "must be of the same version of llama.cpp\n",
                 name);
    std::abort();
  }
  return reinterpret_cast<Function>(address);
}

}  // namespace squat_preload

/// The next `function`, looked up once.
#define SQUAT_NEXT(function)                                                                 \
  ([] {                                                                                      \
    static const auto next = squat_preload::next_function<decltype(&::function)>(#function); \
    return next;                                                                             \
  }())
