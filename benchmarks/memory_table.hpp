// What a cached token costs in memory, part by part.
#pragma once

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "contestants.hpp"

namespace benchmarks {

struct MemoryRow {
  std::string name;
  squat::MemoryUsage bytes;  ///< of one layer; a peer's are all codes and scales
};

inline MemoryRow ggml_memory(const AttentionShape& shape, ggml_type type) {
  MemoryRow row{std::string("ggml ") + ggml_type_name(type), {}};
  const auto width = static_cast<std::int64_t>(shape.kv_width());
  row.bytes.codes = static_cast<squat::Index>(2 * ggml_row_size(type, width)) * shape.tokens;
  return row;
}

/// Of a cache that got `data` so many times.
inline MemoryRow squat_memory(const AttentionData& data, int times, const Setting& setting) {
  squat::SQuatCache<float, 2> cache(model_shape(data.shape), setting.config);
  for (int i = 0; i < times; ++i) fill(cache, data);
  return {setting.name, cache.memory()};
}

/// Prints the rows in bits per cached element, and returns them; "beside" is what is neither codes
/// nor scales, as a part of these.
inline nlohmann::json memory_table(const AttentionShape& shape,
                                   const std::vector<Setting>& settings) {
  AttentionShape part = shape;
  part.tokens = std::min(shape.tokens, 4096);
  const AttentionData data(part);
  std::vector<MemoryRow> rows = {ggml_memory(shape, GGML_TYPE_F16),
                                 ggml_memory(shape, GGML_TYPE_Q8_0),
                                 ggml_memory(shape, GGML_TYPE_Q4_0)};
  for (const Setting& setting : settings)
    rows.push_back(squat_memory(data, shape.tokens / part.tokens, setting));
  const double elements = 2.0 * shape.tokens * static_cast<double>(shape.kv_width());
  const auto bits = [&](squat::Index bytes) { return 8 * static_cast<double>(bytes) / elements; };

  std::printf("\n### Memory: %s, bits per element\n\n", shape.name().c_str());
  std::printf(
      "| cache | codes | scales | headers | reserved | residual | subspace | bookkeeping | total "
      "| beside |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|---|\n");
  nlohmann::json json = nlohmann::json::array();
  for (const auto& [name, bytes] : rows) {
    const double stored = bits(bytes.codes + bytes.scales);
    std::printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %.3f | %.1f %% |\n",
                name.c_str(), bits(bytes.codes), bits(bytes.scales), bits(bytes.headers),
                bits(bytes.reserved), bits(bytes.residual), bits(bytes.subspace),
                bits(bytes.bookkeeping), bits(bytes.total()),
                100 * (bits(bytes.total()) / stored - 1));
    json.push_back({{"name", name}, {"bits_per_element", bits(bytes.total())}});
  }
  std::fflush(stdout);
  return json;
}

/// Prints what caches of 32 to 16384 tokens take in total, in bits per cached element; `shape` says
/// nothing of tokens.
inline void length_table(AttentionShape shape, const std::vector<Setting>& settings) {
  constexpr int lengths[] = {32, 128, 256, 512, 1024, 4096, 16384};
  shape.tokens = lengths[std::size(lengths) - 1];
  const AttentionData data(shape);
  std::printf("| cache |");
  for (const int tokens : lengths) std::printf(" %d |", tokens);
  std::printf("\n|---|");
  for (std::size_t i = 0; i < std::size(lengths); ++i) std::printf("---|");
  std::printf("\n");
  const auto print = [&](const std::string& name, const auto& bytes_of) {
    std::printf("| %s |", name.c_str());
    for (const int tokens : lengths)
      std::printf(" %.2f |", 8 * static_cast<double>(bytes_of(tokens)) /
                                 (2.0 * tokens * static_cast<double>(shape.kv_width())));
    std::printf("\n");
  };
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0})
    print(std::string("ggml ") + ggml_type_name(type), [&](int tokens) {
      AttentionShape part = shape;
      part.tokens = tokens;
      return ggml_memory(part, type).bytes.total();
    });
  for (const Setting& setting : settings)
    print(setting.name, [&](int tokens) {
      squat::SQuatCache<float, 2> cache(model_shape(shape), setting.config);
      fill(cache, data, tokens);
      return cache.memory().total();
    });
  std::fflush(stdout);
}

}  // namespace benchmarks
