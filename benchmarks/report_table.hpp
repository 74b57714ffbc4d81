// One table of the comparison: as Markdown for a reader, as JSON for plot.py.
#pragma once

#include <algorithm>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "interleave.hpp"

namespace benchmarks {

/// What a table's rows mean. Times are divided by `units` and printed in `unit`.
struct TableHead {
  std::string kind;  ///< decode, prompt or encode
  std::string title;
  std::string unit;
  double units = 1;
  double elements = 0;   ///< cached elements that `Contestant::bytes` holds; 0 if that is no matter
  double bandwidth = 0;  ///< of reading memory, in bytes per ns; 0 if that is no matter
  std::string base;      ///< name of the contestant that ratios refer to
  int threads = 1;
};

struct TableRow {
  Contestant contestant;
  Timing timing;
};

/// Whole from 100 on, else with one decimal.
inline std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), value >= 100 ? "%.0f" : "%.1f", value);
  return text;
}

class ReportTable {
 public:
  ReportTable(TableHead head, std::vector<TableRow> rows)
      : head_(std::move(head)), rows_(std::move(rows)) {}

  void print() const {
    const bool reads = head_.elements > 0;
    std::printf("\n### %s, %d thread%s\n\n", head_.title.c_str(), head_.threads,
                head_.threads == 1 ? "" : "s");
    if (head_.bandwidth > 0) std::printf("Reading memory: %.1f GB/s.\n\n", head_.bandwidth);
    std::printf("| cache | %s%s (quartiles) | speed, %s = 1 | speed, best peer = 1 |\n",
                reads ? "bits per element | " : "", head_.unit.c_str(), head_.base.c_str());
    std::printf("|---|%s---|---|---|\n", reads ? "---|" : "");
    const double best = best_peer();
    for (const auto& [contestant, timing] : rows_) {
      std::printf("| %s | ", contestant.name.c_str());
      if (reads) std::printf("%.2f | ", bits_per_element(contestant));
      std::printf("%s (%s to %s)", short_number(timing.median / head_.units).c_str(),
                  short_number(timing.lower_quartile / head_.units).c_str(),
                  short_number(timing.upper_quartile / head_.units).c_str());
      if (head_.bandwidth > 0)
        std::printf(", %.2f GB/s, %.0f %% of reading", contestant.bytes / timing.median,
                    100 * contestant.bytes / timing.median / head_.bandwidth);
      std::printf(" | %.2f | %.2f |\n", timing.ratio, best / timing.median);
    }
    std::fflush(stdout);
  }

  nlohmann::json json() const {
    nlohmann::json rows = nlohmann::json::array();
    for (const auto& [contestant, timing] : rows_)
      rows.push_back({{"name", contestant.name},
                      {"bits_per_element", bits_per_element(contestant)},
                      {"bytes", contestant.bytes},
                      {"layers", contestant.layers},
                      {"median", timing.median / head_.units},
                      {"lower_quartile", timing.lower_quartile / head_.units},
                      {"upper_quartile", timing.upper_quartile / head_.units},
                      {"gigabytes_per_second", contestant.bytes / timing.median},
                      {"ratio", timing.ratio},
                      {"ratio_to_best_peer", best_peer() / timing.median}});
    return {{"kind", head_.kind}, {"title", head_.title},
            {"unit", head_.unit}, {"threads", head_.threads},
            {"base", head_.base}, {"read_gigabytes_per_second", head_.bandwidth},
            {"rows", rows}};
  }

 private:
  /// The shortest median of the contestants that are not squat's.
  double best_peer() const {
    double best = std::numeric_limits<double>::infinity();
    for (const auto& [contestant, timing] : rows_)
      if (contestant.name.rfind("squat", 0) != 0) best = std::min(best, timing.median);
    return best;
  }

  double bits_per_element(const Contestant& contestant) const {
    return head_.elements > 0 ? 8 * contestant.bytes / head_.elements : 0;
  }

  TableHead head_;
  std::vector<TableRow> rows_;
};

}  // namespace benchmarks
