// The states of examples/data: queries, keys and values of one layer of a real model.
#pragma once

#include <filesystem>
#include <fstream>
#include <squat/squat.hpp>
#include <stdexcept>
#include <string>

namespace quickstart {

using squat::Index;
using squat::Matrix;

/// One layer, row-major, a row a token.
struct LayerStates {
  squat::ModelShape shape;
  Index prompt_tokens = 0;  ///< the first tokens are the prompt, the others are held out
  Matrix<float> queries;    ///< [tokens, query_heads * head_dim], after position embedding
  Matrix<float> keys;       ///< [tokens, kv_heads * head_dim], after position embedding
  Matrix<float> values;     ///< [tokens, kv_heads * head_dim]

  Index held_out_tokens() const { return queries.rows() - prompt_tokens; }
};

/// Reads `rows` x `columns` little-endian float16 numbers, row-major, from a file of that size.
inline Matrix<float> read_half_matrix(const std::filesystem::path& path, Index rows,
                                      Index columns) {
  Matrix<Eigen::half> matrix(rows, columns);
  const auto bytes = static_cast<std::streamsize>(matrix.size() * Index{sizeof(Eigen::half)});
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(matrix.data()), bytes) || file.peek() != EOF)
    throw std::runtime_error(path.string() + " cannot be read, or does not have " +
                             std::to_string(bytes) + " bytes");
  return matrix.cast<float>();
}

/// Layer 20 of SmolLM2-135M-Instruct over 1280 tokens, from `folder` (see its README.md).
inline LayerStates read_layer20(const std::filesystem::path& folder) {
  LayerStates states;
  states.shape = {/*layers=*/1, /*query_heads=*/9, /*kv_heads=*/3, /*head_dim=*/64};
  states.prompt_tokens = 1024;
  constexpr Index tokens = 1280;
  states.queries = read_half_matrix(folder / "layer20.q.f16", tokens, 9 * 64);
  states.keys = read_half_matrix(folder / "layer20.k.f16", tokens, 3 * 64);
  states.values = read_half_matrix(folder / "layer20.v.f16", tokens, 3 * 64);
  return states;
}

}  // namespace quickstart
