// The parts of the cache that work without it, for a cache of the caller's own.
#pragma once

#include <squat/detail/encoding/key_quantizer.hpp>
#include <squat/detail/encoding/value_quantizer.hpp>
#include <squat/query_moments.hpp>

namespace squat {

using detail::ErrorFeedback;
using detail::KeyQuantizer;
using detail::QuerySubspace;
using detail::ValueQuantizer;

}  // namespace squat
