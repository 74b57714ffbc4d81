// Results of an evaluation: a table, a JSON file, a picture.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "evaluation.hpp"

namespace squat_llama {

void print_table(std::ostream& out, const std::vector<CacheResult>& results,
                 const Protocol& protocol);

/// Where and how the results were found goes in with them.
struct Setting {
  std::string model;
  std::string text;
  int threads;
};
void write_json(const std::string& path, const std::vector<CacheResult>& results,
                const Protocol& protocol, const Setting& setting);

/// KL divergence against bits per element, drawn by gnuplot. The path ends in .png, .svg or .pdf.
void write_plot(const std::string& path, const std::vector<CacheResult>& results);

}  // namespace squat_llama
