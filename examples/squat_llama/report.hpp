// Results of an evaluation: a table, a JSON file, a picture.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "evaluation.hpp"

namespace squat_llama {

/// Where and how results were found.
struct Setting {
  std::string model;               ///< path
  std::vector<std::string> texts;  ///< paths
  int threads;
  Protocol protocol;
};

/// Means over all texts; where there are several, then the divergence on each.
void print_table(std::ostream& out, const std::vector<CacheResult>& results,
                 const Setting& setting);

void write_json(const std::string& path, const std::vector<CacheResult>& results,
                const Setting& setting);

/// KL divergence against bits per element, drawn by gnuplot. The path ends in .png, .svg or .pdf.
void write_plot(const std::string& path, const std::vector<CacheResult>& results);

}  // namespace squat_llama
