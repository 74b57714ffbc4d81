// squat: a key-value cache in 2 to 5 bits. This header is all that a program includes.
#pragma once

// Other headers define some names as macros. They are back behind this one.
#pragma push_macro("min")
#undef min
#pragma push_macro("max")
#undef max
#pragma push_macro("near")
#undef near
#pragma push_macro("far")
#undef far
#pragma push_macro("small")
#undef small
#pragma push_macro("I")
#undef I

#include <squat/cache.hpp>
#include <squat/detail/cache/cache_definitions.hpp>
#include <squat/layer_bits.hpp>
#include <squat/merged_attention.hpp>
#include <squat/quantizers.hpp>
#include <squat/version.hpp>

#if defined(SQUAT_COMPILED)  // by the one source that includes squat/compiled.hpp
namespace squat {

extern template class SQuatCache<float, 2>;
extern template class SQuatCache<float, 3>;
extern template class SQuatCache<float, 4>;
extern template class SQuatCache<float, 8>;

}  // namespace squat
#endif

#pragma pop_macro("min")
#pragma pop_macro("max")
#pragma pop_macro("near")
#pragma pop_macro("far")
#pragma pop_macro("small")
#pragma pop_macro("I")
