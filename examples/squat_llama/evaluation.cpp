#include "evaluation.hpp"

#include <algorithm>
#include <squat/error.hpp>

namespace squat_llama {
namespace {

using squat::require;

/// Reads all windows on one cache. Calls on_logits(first, logits) with what follows the decoded
/// tokens from the `first` on, as many as are decoded in one pass: [windows * tokens, vocabulary].
/// Calls on_progress(done) with the share that is done.
template <class OnLogits, class OnProgress>
CacheBytes read_windows(const Model& model, const CacheSpec& spec,
                        const std::vector<Window>& windows, const Protocol& protocol,
                        const OnLogits& on_logits, const OnProgress& on_progress) {
  SessionOptions options;
  options.texts = static_cast<int>(windows.size());
  options.capacity = protocol.prompt_tokens + protocol.decode_tokens;
  options.batch = protocol.batch > 0 ? protocol.batch : protocol.prompt_tokens;
  options.step = protocol.decode_batch;
  options.moments = protocol.moments;
  options.calibration = protocol.calibration;
  const std::unique_ptr<Session> session = make_session(model, spec, options);

  const double passes = options.texts + protocol.decode_tokens;
  for (int text = 0; text < options.texts; ++text) {
    const Window& window = windows[static_cast<std::size_t>(text)];
    session->read(text, {window.begin(), window.begin() + protocol.prompt_tokens});
    on_progress((text + 1) / passes);
  }
  for (int first = 0; first < protocol.decode_tokens; first += protocol.decode_batch) {
    const int end = std::min(first + protocol.decode_batch, protocol.decode_tokens);
    std::vector<std::vector<Token>> tokens;
    for (const Window& window : windows)
      tokens.emplace_back(window.begin() + protocol.prompt_tokens + first,
                          window.begin() + protocol.prompt_tokens + end);
    on_logits(first, session->step(tokens));
    on_progress((options.texts + end) / passes);
  }
  CacheBytes bytes = session->bytes();
  bytes.quantized /= options.texts;
  bytes.elements /= options.texts;
  bytes.total /= options.texts;
  return bytes;
}

}  // namespace

std::vector<Window> cut_windows(const std::vector<Token>& text, const Protocol& protocol,
                                Token leading_token, const std::string& name) {
  require(protocol.prompt_tokens >= 1 && protocol.decode_tokens >= 1 && protocol.windows >= 1,
          "a window of ", protocol.prompt_tokens, " prompt tokens and ", protocol.decode_tokens,
          " decoded ones, ", protocol.windows, " times: each must be at least 1");
  require(protocol.decode_batch >= 1, "tokens decoded in one pass are ", protocol.decode_batch,
          "; there must be at least 1");
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

std::vector<CacheResult> evaluate(const Model& model, const std::vector<CacheSpec>& caches,
                                  const std::vector<std::vector<Window>>& texts,
                                  const Protocol& protocol, const OnProgress& on_progress) {
  std::vector<Window> windows;
  std::vector<std::size_t> text_of;  // of each window
  for (std::size_t text = 0; text < texts.size(); ++text)
    for (const Window& window : texts[text]) {
      windows.push_back(window);
      text_of.push_back(text);
    }
  require(!windows.empty(), "there are no windows to read");
  const double runs = static_cast<double>(caches.size() + 1);
  double finished_runs = 0;
  const auto report_as = [&](const std::string& cache) {
    return [&, cache](double of_run) {
      if (on_progress) on_progress((finished_runs + of_run) / runs, cache);
    };
  };

  std::vector<squat::Matrix<float>> expected;  // of each pass
  read_windows(
      model, parse_cache_spec("f32"), windows, protocol,
      [&](int, squat::Matrix<float> logits) { expected.push_back(std::move(logits)); },
      report_as("full precision"));
  ++finished_runs;

  std::vector<CacheResult> results;
  for (const CacheSpec& cache : caches) {
    CacheResult& result = results.emplace_back();
    result.cache = cache.text;
    std::vector<Quality> by_window(windows.size());
    const auto compare = [&](int first, const squat::Matrix<float>& logits) {
      const squat::Matrix<float>& full =
          expected[static_cast<std::size_t>(first / protocol.decode_batch)];
      const squat::Index tokens = logits.rows() / static_cast<squat::Index>(windows.size());
      for (squat::Index row = 0; row < logits.rows(); ++row) {
        const auto window = static_cast<std::size_t>(row / tokens);
        const auto target = static_cast<std::size_t>(protocol.prompt_tokens + first + 1) +
                            static_cast<std::size_t>(row % tokens);
        by_window[window].add(full.row(row).transpose(), logits.row(row).transpose(),
                              windows[window][target]);
      }
    };
    result.bytes = read_windows(model, cache, windows, protocol, compare, report_as(result.cache));
    ++finished_runs;
    result.by_text.resize(texts.size());
    for (std::size_t w = 0; w < windows.size(); ++w) {
      result.by_text[text_of[w]] += by_window[w];
      result.quality += by_window[w];
    }
  }
  return results;
}

}  // namespace squat_llama
