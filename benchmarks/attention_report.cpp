// Compares squat with ggml and ik_llama.cpp: decoding, prompts, encoding, memory. Prints Markdown
// tables; --json keeps the numbers for plot.py.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "contestants.hpp"
#include "memory_table.hpp"
#include "report_table.hpp"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace {

using namespace benchmarks;

struct Options {
  int rounds = 15;
  std::string only = ".*";  // regular expression on table titles
  std::string json;
};

/// The layers that a contestant goes through in turn hold more than this: twice the largest cache.
double cache_bytes() {
  std::size_t kibibytes = 0;
  std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kibibytes;
  return 2.0 * 1024 * static_cast<double>(kibibytes > 0 ? kibibytes : 32 * 1024);
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(": ") + 2);
  return "unknown";
}

/// Times `contestants` and makes a table of them; one named "reading memory" only gives the
/// bandwidth.
ReportTable timed(TableHead head, const std::vector<Contestant>& contestants, int rounds) {
  InterleaveOptions options;
  options.rounds = rounds;
  options.clock = head.threads == 1 ? Clock::processor : Clock::wall;
  for (std::size_t i = 0; i < contestants.size(); ++i)
    if (contestants[i].name == head.base) options.base = i;
  const std::vector<Timing> timings = interleave(contestants, options);
  std::vector<TableRow> rows;
  for (std::size_t i = 0; i < contestants.size(); ++i)
    if (contestants[i].name == "reading memory")
      head.bandwidth = contestants[i].bytes / timings[i].median;
    else
      rows.push_back({contestants[i], timings[i]});
  ReportTable table(std::move(head), std::move(rows));
  table.print();
  return table;
}

std::vector<Setting> settings() {
  return {Setting::published(4),       Setting::published(3),     Setting::published(2),
          Setting::recommended("2.5"), Setting::recommended("3"), Setting::recommended("4.5")};
}

ReportTable decode_table(const AttentionShape& shape, int threads, const std::string& title,
                         const Options& options) {
  auto data = std::make_shared<AttentionData>(shape);
  const double enough = cache_bytes();
  std::vector<Contestant> contestants;
  contestants.push_back(memory_contestant(threads));
  for (CacheLayout layout : {CacheLayout::heads_outermost, CacheLayout::tokens_outermost}) {
    if (layout == CacheLayout::tokens_outermost && shape.kv_heads == 1) continue;  // the same
    for (ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0})
      contestants.push_back(ggml_contestant(data, type, layout, enough, threads));
  }
  for (Contestant& peer : ik_contestants(data, enough, threads))
    contestants.push_back(std::move(peer));
  for (const Setting& setting : settings())
    contestants.push_back(squat_contestant(data, setting, enough, threads));
  TableHead head;
  head.kind = "decode";
  head.title = title;
  head.unit = "ns per cached token and layer";
  head.units = shape.tokens;
  head.elements = 2.0 * shape.tokens * static_cast<double>(shape.kv_width());
  head.base = "ggml f16";
  head.threads = threads;
  return timed(std::move(head), contestants, options.rounds);
}

/// Several rows at once: a second turn, a piece of a prompt, drafts.
ReportTable rows_table(const AttentionShape& shape, const std::string& title,
                       const Options& options) {
  auto data = std::make_shared<AttentionData>(shape);
  TableHead head;
  head.kind = "rows";
  head.title = title;
  head.unit = "ns per row, cached token and layer";
  head.units = static_cast<double>(shape.tokens) * shape.query_rows;
  head.base = "ggml f16";
  head.threads = 1;
  std::vector<Contestant> contestants = ik_contestants(data, 0, 1);
  contestants.push_back(ggml_contestant(data, GGML_TYPE_F16, CacheLayout::heads_outermost, 0, 1));
  contestants.push_back(squat_contestant(data, Setting::published(2), 0, 1));
  contestants.push_back(squat_contestant(data, Setting::recommended("2.5"), 0, 1));
  return timed(std::move(head), contestants, std::max(1, options.rounds / 3));
}

/// A token of each sequence of a batch.
ReportTable sequences_table(const AttentionShape& shape, int sequences, const std::string& title,
                            const Options& options) {
  auto data = std::make_shared<AttentionData>(shape);
  constexpr int threads = 2;
  const Setting setting = Setting::recommended("2.5");
  TableHead head;
  head.kind = "sequences";
  head.title = title;
  head.unit = "ns per cached token and layer";
  head.units = static_cast<double>(shape.tokens) * sequences;
  head.base = "ggml f16";
  head.threads = threads;
  return timed(std::move(head),
               {ggml_sequences_contestant(data, sequences, threads),
                squat_sequences_contestant(data, setting, sequences, false, threads),
                squat_sequences_contestant(data, setting, sequences, true, threads)},
               std::max(1, options.rounds / 3));
}

ReportTable prompt_table(const AttentionShape& shape, int threads, const std::string& title,
                         const Options& options) {
  auto data = std::make_shared<AttentionData>(shape);
  std::vector<Contestant> contestants;
  for (ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16})
    contestants.push_back(
        ggml_contestant(data, type, CacheLayout::heads_outermost, cache_bytes(), threads));
  for (Contestant& peer : ik_contestants(data, 0, threads)) contestants.push_back(std::move(peer));
  for (bool whole : {false, true})
    contestants.push_back(squat_prompt_contestant(data, Setting::published(2), whole, threads));
  TableHead head;
  head.kind = "prompt";
  head.title = title;
  head.unit = "ms";
  head.units = 1e6;
  head.base = "ggml f16";
  head.threads = threads;
  return timed(std::move(head), contestants, std::max(1, options.rounds / 3));
}

ReportTable encode_table(const AttentionShape& shape, const std::string& title,
                         const Options& options) {
  auto data = std::make_shared<AttentionData>(shape);
  std::vector<Contestant> contestants;
  for (ggml_type type : {GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1})
    contestants.push_back(ggml_encode_contestant(data, type));
  for (const Setting& setting : settings()) {
    contestants.push_back(squat_key_contestant(data, setting));
    contestants.push_back(squat_value_contestant(data, setting));
  }
  Setting every_channel = Setting::published(2);
  every_channel.name += ", step 1";
  every_channel.config.quant_group_size = 1;
  contestants.push_back(squat_key_contestant(data, every_channel));
  TableHead head;
  head.kind = "encode";
  head.title = title;
  head.unit = "ns per 128 elements";
  head.units = static_cast<double>(shape.tokens) * static_cast<double>(shape.kv_width()) / 128;
  head.base = "ggml q4_0";
  return timed(std::move(head), contestants, options.rounds);
}

/// Starts this program anew with an allocator that asks for huge pages, for all contestants alike,
/// as where transparent huge pages are always on: a cache of a long context is slower in small
/// ones.
void ask_for_huge_pages([[maybe_unused]] char** arguments) {
#if defined(__linux__) && defined(__GLIBC__)
  if (std::getenv("GLIBC_TUNABLES") != nullptr) return;
  setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", 1);
  execv("/proc/self/exe", arguments);
#endif
}

void run(const Options& options) {
  std::printf("## Speed on %s\n", processor_name().c_str());
  nlohmann::json tables = nlohmann::json::array();
  const std::regex only(options.only);
  const auto wanted = [&](const std::string& title) { return std::regex_search(title, only); };

  struct Decode {
    AttentionShape shape;
    int threads;
  };
  const Decode decodes[] = {
      {{32, 8, 128, 4096}, 1}, {{32, 8, 128, 32768}, 1}, {{9, 3, 64, 8192}, 1},
      {{4, 1, 256, 8192}, 1},  {{16, 16, 64, 8192}, 1},  {{64, 8, 128, 8192}, 1},
      {{32, 8, 128, 64}, 1},   {{32, 8, 128, 256}, 1},   {{32, 8, 128, 32768}, 2}};
  for (const Decode& decode : decodes)
    if (const std::string title = "Decoding: " + decode.shape.name(); wanted(title))
      tables.push_back(decode_table(decode.shape, decode.threads, title, options).json());

  const AttentionShape prompt{32, 8, 128, 2048, 2048};
  if (const std::string title = "Prompt: " + prompt.name(); wanted(title))
    for (int threads : {1, 2})
      tables.push_back(prompt_table(prompt, threads, title, options).json());

  for (const int tokens : {4096, 16384})
    for (const int rows : {1, 8, 9, 32, 64, 256, 512}) {
      const AttentionShape shape{32, 8, 128, tokens, rows};
      const std::string title = "Rows: " + std::to_string(rows) + " of " + shape.name();
      if (wanted(title)) tables.push_back(rows_table(shape, title, options).json());
    }
  for (const int tokens : {512, 4096, 16384})
    for (const int sequences : {1, 8, 32}) {
      const AttentionShape shape{32, 8, 128, tokens};
      const std::string title = "Sequences: " + std::to_string(sequences) + " of " + shape.name();
      if (wanted(title)) tables.push_back(sequences_table(shape, sequences, title, options).json());
    }

  const AttentionShape encode{32, 8, 128, 512, 512};
  if (const std::string title = "Encoding: " + encode.name(); wanted(title))
    tables.push_back(encode_table(encode, title, options).json());

  nlohmann::json memory = nlohmann::json::object();
  for (const int tokens : {4096, 131072})
    if (const AttentionShape shape{32, 8, 128, tokens}; wanted("Memory: " + shape.name()))
      memory[shape.name()] = memory_table(shape, settings());

  for (const AttentionShape& shape :
       {AttentionShape{9, 3, 64}, AttentionShape{32, 8, 128}, AttentionShape{4, 1, 256}}) {
    const std::string heads = shape.name().substr(0, shape.name().rfind(','));
    if (!wanted("Memory by length: " + heads)) continue;
    std::printf("\n### Memory by length: %s, bits per element in total\n\n", heads.c_str());
    length_table(shape, {Setting::published(2), Setting::recommended("2.5"),
                         Setting::recommended("3"), Setting::recommended("4.5")});
  }

  if (options.json.empty()) return;
  std::ofstream file(options.json);
  file << nlohmann::json{{"processor", processor_name()}, {"tables", tables}, {"memory", memory}}
              .dump(2)
       << '\n';
  if (!file) throw std::runtime_error("cannot write " + options.json);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Compares squat with ggml and ik_llama.cpp: decoding, prompts, encoding, memory.");
  app.add_option("--rounds", options.rounds, "timed rounds; prompts take a third")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--only", options.only, "regular expression on the titles of the tables")
      ->capture_default_str();
  app.add_option("--json", options.json, "file for the numbers");
  CLI11_PARSE(app, argc, argv);
  ask_for_huge_pages(argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention_report: %s\n", error.what());
    return 1;
  }
}
