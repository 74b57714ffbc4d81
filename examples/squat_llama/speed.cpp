// Decoding speed of caches in turn, llama.cpp's own among them.
#include <algorithm>
#include <iomanip>
#include <iostream>
#include <numeric>

#include "commands.hpp"
#include "llama_session.hpp"
#include "moments.hpp"
#include "progress.hpp"
#include "require.hpp"
#include "stopwatch.hpp"
#include "tee_cache.hpp"
#include "tokenizer.hpp"

namespace squat_llama {
namespace {

const std::string kLlamaCpp = "llama.cpp:";  ///< begins the names of its own caches

/// A cache that is timed: the engine's, or llama.cpp's.
struct Contestant {
  std::string name;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<LlamaSession> session;
  std::vector<double> seconds = {};  ///< of one token, a repetition each

  double median_seconds() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t middle = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[middle] : 0.5 * (sorted[middle - 1] + sorted[middle]);
  }
};

std::vector<Contestant> make_contestants(const ModelOptions& model_options, const Model& model,
                                         const SpeedOptions& options,
                                         const squat::QueryMoments* moments) {
  std::vector<Contestant> contestants;
  for (const std::string& name : options.caches) {
    if (name.rfind(kLlamaCpp, 0) == 0) {
      LlamaSession::Options session;
      session.capacity = options.context;
      session.cache_type = name.substr(kLlamaCpp.size());
      session.threads = model_options.threads;
      contestants.push_back(
          {name, nullptr, std::make_unique<LlamaSession>(model_options.path, session)});
    } else {
      contestants.push_back({name,
                             make_cache(parse_cache_spec(name), model.config(),
                                        {options.context, model_options.threads, 1, moments}),
                             nullptr});
    }
  }
  return contestants;
}

/// Gives all contestants the prompt. The engine reads it once for all of its caches, attending by
/// the first that stores as it attends, because the others of that kind attend as well; ggml's
/// caches only store.
void fill(std::vector<Contestant>& contestants, Engine& engine, const std::vector<Token>& prompt,
          ProgressBar& bar) {
  constexpr std::ptrdiff_t tokens_of_pass = 1024;
  std::vector<KvCache*> caches;
  for (Contestant& contestant : contestants) {
    if (contestant.cache) caches.push_back(contestant.cache.get());
  }
  std::stable_partition(caches.begin(), caches.end(),
                        [](const KvCache* cache) { return cache->stores_by_attending(); });
  TeeCache all(caches);
  for (auto begin = prompt.begin(); begin != prompt.end();) {
    const auto end = begin + std::min(tokens_of_pass, prompt.end() - begin);
    if (!caches.empty()) engine.forward({begin, end}, all);
    for (Contestant& contestant : contestants) {
      if (contestant.session) contestant.session->forward({begin, end});
    }
    begin = end;
    bar.show(static_cast<double>(begin - prompt.begin()) / static_cast<double>(prompt.size()),
             "filling the caches");
  }
}

void print_speeds(std::ostream& out, const std::vector<Contestant>& contestants) {
  std::size_t width = 5;
  for (const Contestant& contestant : contestants) width = std::max(width, contestant.name.size());
  const int name_width = static_cast<int>(width);
  const double first = contestants.front().median_seconds();
  out << std::left << std::setw(name_width) << "cache" << std::right
      << "   tok/s   ms/token (fastest - slowest)   relative to " << contestants.front().name
      << "\n";
  for (const Contestant& contestant : contestants) {
    const auto [fastest, slowest] =
        std::minmax_element(contestant.seconds.begin(), contestant.seconds.end());
    const double median = contestant.median_seconds();
    out << std::fixed << std::left << std::setw(name_width) << contestant.name << std::right
        << std::setprecision(1) << std::setw(8) << 1 / median << std::setw(11) << 1e3 * median
        << std::setw(10) << 1e3 * *fastest << " - " << std::setw(7) << 1e3 * *slowest
        << std::setprecision(2) << std::setw(12) << first / median << "x\n";
  }
}

}  // namespace

void speed(const ModelOptions& model_options, const SpeedOptions& options) {
  require(options.tokens >= 1 && options.repetitions >= 1, "decoding ", options.tokens, " tokens ",
          options.repetitions, " times: both must be at least 1");
  const int decoded = options.tokens * options.repetitions;
  require(options.context > decoded, "the context of ", options.context,
          " tokens has no room for a prompt before ", decoded, " decoded ones");
  const Model model(model_options.path, model_options.weights);
  std::vector<Token> tokens = Tokenizer(model_options.path).encode(read_file(options.text_path));
  require(tokens.size() >= static_cast<std::size_t>(options.context), options.text_path, " has ",
          tokens.size(), " tokens; the context is to have ", options.context);
  Engine engine(model, model_options.threads);
  const auto moments = load_moments(options.moments_path, model.config());
  std::vector<Contestant> contestants =
      make_contestants(model_options, model, options, moments ? &*moments : nullptr);

  {
    ProgressBar bar;
    auto next = tokens.begin() + (options.context - decoded);
    fill(contestants, engine, {tokens.begin(), next}, bar);
    for (int repetition = 0; repetition < options.repetitions; ++repetition) {
      for (Contestant& contestant : contestants) {
        const Stopwatch time;
        for (int i = 0; i < options.tokens; ++i) {
          if (contestant.cache) engine.forward({next[i]}, *contestant.cache);
          if (contestant.session) contestant.session->forward({next[i]});
        }
        contestant.seconds.push_back(time.seconds() / options.tokens);
      }
      next += options.tokens;
    }
  }
  std::cout << "Decoding up to token " << options.context << " on " << model_options.threads
            << " thread(s), medians of " << options.repetitions << " repetitions in turn of "
            << options.tokens << " tokens\n";
  print_speeds(std::cout, contestants);
}

}  // namespace squat_llama
