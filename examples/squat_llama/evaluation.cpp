#include "evaluation.hpp"

#include "peak_memory.hpp"
#include "require.hpp"
#include "stopwatch.hpp"

namespace squat_llama {
namespace {

struct Seconds {
  double prompt = 0;
  double decode = 0;
};

/// Reads a window. Calls on_logits(i, logits) for each decoded token; that is not timed.
template <class OnLogits>
Seconds read_window(Engine& engine, KvCache& cache, const Window& window, const Protocol& protocol,
                    OnLogits on_logits) {
  Seconds seconds;
  const auto decode_begin = window.begin() + protocol.prompt_tokens;
  Stopwatch prompt_time;
  engine.read_prompt({window.begin(), decode_begin}, cache, protocol.batch);
  seconds.prompt = prompt_time.seconds();
  for (int i = 0; i < protocol.decode_tokens; ++i) {
    Stopwatch decode_time;
    const squat::Matrix<float> logits = engine.forward({decode_begin[i]}, cache);
    seconds.decode += decode_time.seconds();
    on_logits(i, logits.row(0).transpose());
  }
  return seconds;
}

}  // namespace

std::vector<Window> cut_windows(const std::vector<Token>& text, const Protocol& protocol,
                                int leading_token, const std::string& name) {
  require(protocol.prompt_tokens >= 1 && protocol.decode_tokens >= 1 && protocol.windows >= 1,
          "a window of ", protocol.prompt_tokens, " prompt tokens and ", protocol.decode_tokens,
          " decoded ones, ", protocol.windows, " times: each must be at least 1");
  const bool leads = leading_token >= 0;
  const std::ptrdiff_t own_tokens = protocol.window_tokens() - (leads ? 1 : 0);
  const std::ptrdiff_t needed = protocol.windows * own_tokens;
  require(static_cast<std::ptrdiff_t>(text.size()) >= needed, name, " has ", text.size(),
          " tokens; ", protocol.windows, " windows need ", needed);
  std::vector<Window> windows;
  for (auto begin = text.begin(); begin != text.begin() + needed; begin += own_tokens) {
    windows.emplace_back();
    if (leads) windows.back().push_back(leading_token);
    windows.back().insert(windows.back().end(), begin, begin + own_tokens);
  }
  return windows;
}

std::vector<CacheResult> evaluate(Engine& engine, const std::vector<CacheSpec>& caches,
                                  const std::vector<std::vector<Window>>& texts,
                                  const Protocol& protocol, const OnProgress& on_progress) {
  std::size_t windows = 0;
  for (const std::vector<Window>& text : texts) windows += text.size();
  const double runs = static_cast<double>(windows * (caches.size() + 1));
  double finished_runs = 0;
  const auto report = [&](int token, const std::string& cache) {
    const double of_run = (token + 1.0) / protocol.decode_tokens;
    if (on_progress) on_progress((finished_runs + of_run) / runs, cache);
  };
  CacheOptions options;
  options.capacity = protocol.prompt_tokens + protocol.decode_tokens;
  options.threads = engine.threads();
  options.sequences = protocol.one_cache ? static_cast<int>(windows) : 1;
  options.moments = protocol.moments;
  const auto make = [&](const CacheSpec& spec) {
    return make_cache(spec, engine.model().config(), options);
  };
  std::vector<std::unique_ptr<KvCache>> shared(caches.size());  // of one_cache

  std::vector<CacheResult> results;
  for (const CacheSpec& cache : caches) {
    results.emplace_back();
    results.back().cache = cache.text;
    results.back().by_text.resize(texts.size());
  }
  const auto evaluate_window = [&](const Window& window, std::size_t text) {
    const auto target = window.begin() + protocol.prompt_tokens + 1;
    squat::Matrix<float> expected(protocol.decode_tokens, engine.model().vocabulary());
    read_window(engine, *make(parse_cache_spec("f32")), window, protocol,
                [&](int i, const Eigen::VectorXf& logits) {
                  expected.row(i) = logits;
                  report(i, "full precision");
                });
    ++finished_runs;
    for (std::size_t c = 0; c < caches.size(); ++c) {
      CacheResult& result = results[c];
      reset_peak_memory();
      std::unique_ptr<KvCache> own;
      std::unique_ptr<KvCache>& cache = protocol.one_cache ? shared[c] : own;
      if (cache)
        cache->next_sequence();
      else
        cache = make(caches[c]);
      const Seconds seconds =
          read_window(engine, *cache, window, protocol, [&](int i, const Eigen::VectorXf& logits) {
            result.by_text[text].add(expected.row(i).transpose(), logits, target[i]);
            report(i, result.cache);
          });
      result.prompt_seconds += seconds.prompt;
      result.decode_seconds += seconds.decode;
      result.peak_resident = std::max(result.peak_resident, peak_memory());
      result.bytes = cache->bytes();
      ++finished_runs;
    }
  };
  for (std::size_t text = 0; text < texts.size(); ++text) {
    for (const Window& window : texts[text]) evaluate_window(window, text);
  }
  for (CacheResult& result : results) {
    for (const Quality& quality : result.by_text) result.quality += quality;
  }
  return results;
}

}  // namespace squat_llama
