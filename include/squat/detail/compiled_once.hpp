// What may be compiled once a program.
#pragma once

// Stands before a function whose definition is in a header, or with SQUAT_COMPILED in the one
// source that includes squat/compiled.hpp.
#if defined(SQUAT_COMPILED)
#define SQUAT_COMPILED_ONCE
#else
#define SQUAT_COMPILED_ONCE inline
#endif
