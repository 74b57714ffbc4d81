#include "report.hpp"

#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <ostream>
#include <squat/error.hpp>

namespace squat_llama {
namespace {

constexpr double kMebi = 1024.0 * 1024.0;

double decoded_tokens(const Protocol& protocol) {
  return static_cast<double>(protocol.windows) * protocol.decode_tokens;
}

}  // namespace

void print_table(std::ostream& out, const std::vector<CacheResult>& results,
                 const Protocol& protocol) {
  std::size_t width = 5;
  for (const CacheResult& result : results) width = std::max(width, result.cache.size());
  const auto name = [&](const std::string& text) -> std::ostream& {
    return out << std::left << std::setw(static_cast<int>(width)) << text << std::right;
  };
  name("cache") << "  bits/elem  mean KLD   99% KLD   top-1  perplexity           cache    peak RSS"
                   "  decode\n";
  name("") << "                                            (full precision)         MiB         MiB"
              "   tok/s\n";
  for (const CacheResult& result : results) {
    const Quality& quality = result.quality;
    const double full = quality.expected_perplexity();
    name(result.cache) << std::fixed << std::setprecision(3) << std::setw(11)
                       << result.bytes.bits_per_element() << std::setprecision(5) << std::setw(10)
                       << quality.mean_divergence() << std::setprecision(4) << std::setw(10)
                       << quality.divergence_at(0.99) << std::setprecision(1) << std::setw(7)
                       << 100 * quality.top1_agreement() << "%" << std::setprecision(3)
                       << std::setw(10) << quality.perplexity() << " (" << full << ")"
                       << std::setprecision(2) << std::setw(9) << result.bytes.total() / kMebi
                       << std::setprecision(1) << std::setw(12) << result.peak_resident / kMebi
                       << std::setw(8) << decoded_tokens(protocol) / result.decode_seconds << "\n";
  }
}

void write_json(const std::string& path, const std::vector<CacheResult>& results,
                const Protocol& protocol, const Setting& setting) {
  nlohmann::ordered_json caches = nlohmann::ordered_json::array();
  for (const CacheResult& result : results) {
    const Quality& quality = result.quality;
    caches.push_back({
        {"cache", result.cache},
        {"bits_per_element", result.bytes.bits_per_element()},
        {"mean_kl_divergence", quality.mean_divergence()},
        {"kl_divergence_99_percent", quality.divergence_at(0.99)},
        {"top1_agreement", quality.top1_agreement()},
        {"perplexity", quality.perplexity()},
        {"perplexity_full_precision", quality.expected_perplexity()},
        {"cache_bytes", result.bytes.total()},
        {"cache_bytes_codes", result.bytes.codes},
        {"cache_bytes_scales", result.bytes.scales},
        {"cache_bytes_reserved", result.bytes.reserved},
        {"cache_bytes_residual", result.bytes.residual},
        {"cache_bytes_other", result.bytes.other},
        {"peak_resident_bytes", result.peak_resident},
        {"prompt_tokens_per_second",
         static_cast<double>(protocol.windows) * protocol.prompt_tokens / result.prompt_seconds},
        {"decode_tokens_per_second", decoded_tokens(protocol) / result.decode_seconds},
    });
  }
  const nlohmann::ordered_json report = {
      {"model", setting.model},
      {"text", setting.text},
      {"threads", setting.threads},
      {"prompt_tokens", protocol.prompt_tokens},
      {"decode_tokens", protocol.decode_tokens},
      {"windows", protocol.windows},
      {"batch", protocol.batch},
      {"caches", caches},
  };
  std::ofstream file(path);
  file << report.dump(2) << "\n";
  squat::require(file.good(), "cannot write ", path);
}

}  // namespace squat_llama
