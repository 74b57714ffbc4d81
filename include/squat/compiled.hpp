// Compiles once what all sources of a program would compile again.
//
// By default everything is in headers. Where all sources of a program are compiled with
// SQUAT_COMPILED defined, and one of them includes this header, the caches of floats, the
// kernels and the decomposition of matrices are compiled in that one alone; the others only
// see their declarations.
#pragma once

#if !defined(SQUAT_COMPILED)
#error "squat/compiled.hpp is for programs all of whose sources are compiled with SQUAT_COMPILED"
#endif

#include <squat/detail/encoding/simd/encode_dispatch_source.hpp>
#include <squat/detail/plan/leading_directions_source.hpp>
#include <squat/detail/simd/dispatch_source.hpp>
#include <squat/squat.hpp>

namespace squat {

SQUAT_CACHES_OF(float, );

}  // namespace squat
