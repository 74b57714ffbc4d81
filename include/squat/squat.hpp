// squat: a key-value cache in 2 to 5 bits. This header is all that a program includes.
#pragma once

#include <squat/detail/macros_begin.hpp>

#include <squat/cache.hpp>
#include <squat/detail/cache/all_widths.hpp>
#include <squat/detail/cache/cache_definitions.hpp>
#include <squat/layer_bits.hpp>
#include <squat/merged_attention.hpp>
#include <squat/quantizers.hpp>
#include <squat/version.hpp>

#if defined(SQUAT_COMPILED)  // by the one source that includes squat/compiled.hpp
namespace squat {

SQUAT_CACHES_OF(float, extern);

}  // namespace squat
#endif

#include <squat/detail/macros_end.hpp>
