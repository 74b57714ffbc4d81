#include "report.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <ostream>
#include <squat/error.hpp>

namespace squat_llama {
namespace {

constexpr double kMebi = 1024.0 * 1024.0;

/// Prints cells that follow the name of a cache.
class Table {
 public:
  Table(std::ostream& out, const std::vector<CacheResult>& results) : out_(out) {
    for (const CacheResult& result : results) width_ = std::max(width_, result.cache.size());
  }
  std::ostream& name(const std::string& text) {
    return out_ << std::left << std::setw(static_cast<int>(width_)) << text << std::right
                << std::fixed;
  }

 private:
  std::ostream& out_;
  std::size_t width_ = 5;
};

std::string stem(const std::string& path) { return std::filesystem::path(path).stem().string(); }

void print_by_text(std::ostream& out, const std::vector<CacheResult>& results,
                   const std::vector<std::string>& texts) {
  constexpr int narrowest = 8;  // of a column
  const auto column = [&](const std::string& text) {
    return 2 + std::max(narrowest, static_cast<int>(text.size()));
  };
  Table table(out, results);
  table.name("") << "  mean KLD by text\n";
  table.name("cache");
  for (const std::string& text : texts) out << std::setw(column(stem(text))) << stem(text);
  out << "\n";
  for (const CacheResult& result : results) {
    table.name(result.cache) << std::setprecision(5);
    for (std::size_t text = 0; text < texts.size(); ++text) {
      out << std::setw(column(stem(texts[text]))) << result.by_text[text].mean_divergence();
    }
    out << "\n";
  }
}

}  // namespace

void print_table(std::ostream& out, const std::vector<CacheResult>& results,
                 const Setting& setting) {
  Table table(out, results);
  table.name("cache")
      << "  bits/elem  mean KLD   99% KLD   top-1  perplexity (full precision)  cache, MiB\n";
  for (const CacheResult& result : results) {
    const Quality& quality = result.quality;
    table.name(result.cache) << std::setprecision(3) << std::setw(11)
                             << result.bytes.bits_per_element() << std::setprecision(5)
                             << std::setw(10) << quality.mean_divergence() << std::setprecision(4)
                             << std::setw(10) << quality.divergence_at(0.99) << std::setprecision(1)
                             << std::setw(7) << 100 * quality.top1_agreement() << "%"
                             << std::setprecision(3) << std::setw(11) << quality.perplexity()
                             << " (" << quality.expected_perplexity() << ")" << std::setprecision(2)
                             << std::setw(18) << result.bytes.total / kMebi << "\n";
  }
  if (setting.texts.size() > 1) print_by_text(out << "\n", results, setting.texts);
}

void write_json(const std::string& path, const std::vector<CacheResult>& results,
                const Setting& setting) {
  const Protocol& protocol = setting.protocol;
  nlohmann::ordered_json caches = nlohmann::ordered_json::array();
  for (const CacheResult& result : results) {
    const Quality& quality = result.quality;
    nlohmann::ordered_json by_text;
    for (std::size_t text = 0; text < setting.texts.size(); ++text) {
      by_text[setting.texts[text]] = {
          {"mean_kl_divergence", result.by_text[text].mean_divergence()},
          {"top1_agreement", result.by_text[text].top1_agreement()},
          {"perplexity", result.by_text[text].perplexity()},
          {"perplexity_full_precision", result.by_text[text].expected_perplexity()}};
    }
    caches.push_back({
        {"cache", result.cache},
        {"bits_per_element", result.bytes.bits_per_element()},
        {"mean_kl_divergence", quality.mean_divergence()},
        {"kl_divergence_99_percent", quality.divergence_at(0.99)},
        {"mean_kl_divergence_by_quarter",
         quality.mean_divergence_by_quarter(protocol.decode_tokens)},
        {"kl_divergences", quality.divergences()},  // window by window
        {"top1_agreement", quality.top1_agreement()},
        {"perplexity", quality.perplexity()},
        {"perplexity_full_precision", quality.expected_perplexity()},
        {"cache_bytes_of_a_window", result.bytes.total},
        {"by_text", by_text},
    });
  }
  const nlohmann::ordered_json report = {
      {"model", setting.model},
      {"texts", setting.texts},
      {"threads", setting.threads},
      {"prompt_tokens", protocol.prompt_tokens},
      {"decode_tokens", protocol.decode_tokens},
      {"windows_of_a_text", protocol.windows},
      {"batch", protocol.batch},
      {"decode_batch", protocol.decode_batch},
      {"caches", caches},
  };
  std::ofstream file(path);
  file << report.dump(2) << "\n";
  squat::require(file.good(), "cannot write ", path);
}

}  // namespace squat_llama
