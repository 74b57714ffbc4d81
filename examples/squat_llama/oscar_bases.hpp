// Bases of OSCAR, fitted on texts before any cache is in use (arXiv 2605.17757, section 3).
#pragma once

#include <squat/matrix.hpp>
#include <squat/model_shape.hpp>
#include <vector>

#include "model.hpp"

namespace squat_llama {

/// Rotations of the kv heads of a layer [head_dim, head_dim].
struct OscarBases {
  std::vector<squat::Matrix<float>> keys;    ///< of sum q^T q over the queries of the kv head
  std::vector<squat::Matrix<float>> values;  ///< of sum w v^T v: see fit_oscar_bases()
};

/// Bases of each layer, from texts that are read in one pass each. A value counts in proportion to
/// w = sum_q (q k^T)^2 over the queries of its text, k being its key. The paper averages over the
/// kv heads of a layer; here each has bases of its own, as in the authors' later versions.
std::vector<OscarBases> fit_oscar_bases(const Model& model, const squat::ModelShape& shape,
                                        const std::vector<std::vector<Token>>& texts);

}  // namespace squat_llama
