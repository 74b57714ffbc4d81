// Query moments of a model: the metric of calibrated caches.
#pragma once

#include <squat/query_moments.hpp>

#include "model.hpp"

namespace squat_llama {

/// Moments of no queries, for add_moments().
squat::QueryMoments empty_moments(const Model& model);

/// Adds the queries of `tokens`, read in one pass.
void add_moments(const Model& model, const std::vector<Token>& tokens,
                 squat::QueryMoments& moments);

}  // namespace squat_llama
