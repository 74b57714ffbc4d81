// Query moments of a model: a metric for caches that is fitted before there is a prompt.
#pragma once

#include <optional>
#include <squat/query_moments.hpp>
#include <string>
#include <vector>

#include "engine.hpp"

namespace squat_llama {

/// No queries yet.
squat::QueryMoments empty_moments(const ModelConfig& model);

/// Adds the queries of every layer while the model reads `tokens` in one exact pass.
void add_moments(Engine& engine, const std::vector<Token>& tokens, squat::SubspaceQueries which,
                 squat::QueryMoments& moments);

/// From a file that QueryMoments::save wrote for a model of the same shape; nothing from no path.
std::optional<squat::QueryMoments> load_moments(const std::string& path, const ModelConfig& model);

}  // namespace squat_llama
