#include <iomanip>
#include <iostream>
#include <random>

#include "commands.hpp"
#include "moments.hpp"
#include "require.hpp"
#include "stopwatch.hpp"
#include "tokenizer.hpp"

namespace squat_llama {
namespace {

/// Chooses the next token from logits.
class Sampler {
 public:
  Sampler(double temperature, std::uint32_t seed) : temperature_(temperature), random_(seed) {
    require(temperature >= 0, "the temperature is ", temperature, "; it must be at least 0");
  }

  Token operator()(const Eigen::VectorXf& logits) {
    Eigen::Index likeliest = 0;
    const float highest = logits.maxCoeff(&likeliest);
    if (temperature_ == 0) return static_cast<Token>(likeliest);
    const Eigen::VectorXd weights =
        ((logits.cast<double>().array() - static_cast<double>(highest)) / temperature_).exp();
    return std::discrete_distribution<Token>(weights.begin(), weights.end())(random_);
  }

 private:
  double temperature_;
  std::mt19937 random_;
};

void print_costs(const KvCache& cache, std::size_t prompt_tokens, double prompt_seconds,
                 int decoded, double decode_seconds) {
  const CacheBytes bytes = cache.bytes();
  std::cout << std::fixed << std::setprecision(0) << "\n\ncache   " << bytes.total()
            << " bytes for " << cache.size() << " tokens, "
            << bytes.total() / static_cast<double>(cache.size()) << " bytes a token (reserved "
            << bytes.reserved << ", residual " << bytes.residual << ", other " << bytes.other
            << "); quantized " << std::setprecision(2) << bytes.bits_per_element()
            << " bits an element\n"
            << std::setprecision(1) << "prompt  " << prompt_tokens << " tokens, "
            << static_cast<double>(prompt_tokens) / prompt_seconds << " a second\n"
            << "decode  " << decoded << " tokens, " << (decoded > 0 ? decoded / decode_seconds : 0)
            << " a second\n";
}

}  // namespace

void generate(const ModelOptions& model_options, const GenerateOptions& options) {
  const CacheSpec spec = parse_cache_spec(options.cache);
  Sampler sample(options.temperature, options.seed);
  require(options.tokens >= 1, "the number of tokens is ", options.tokens,
          "; it must be at least 1");
  const Model model(model_options.path, model_options.weights);
  const Tokenizer tokenizer(model_options.path);
  Engine engine(model, model_options.threads);

  const std::vector<Token> prompt = options.raw
                                        ? tokenizer.encode(options.prompt)
                                        : tokenizer.encode(tokenizer.chat(options.prompt), true);
  require(!prompt.empty(), "the prompt is empty");
  const auto capacity = static_cast<int64_t>(prompt.size()) + options.tokens;
  require(capacity <= model.config().context_length, "prompt and answer have ", capacity,
          " tokens; the model was made for ", model.config().context_length);
  const auto moments = load_moments(options.moments_path, model.config());
  const auto cache = make_cache(spec, model.config(),
                                {capacity, engine.threads(), 1, moments ? &*moments : nullptr});

  const Stopwatch prompt_time;
  Token token = sample(engine.read_prompt(prompt, *cache, options.batch).row(0));
  const double prompt_seconds = prompt_time.seconds();
  const Stopwatch decode_time;
  int decoded = 0;
  for (int i = 0; i < options.tokens && !tokenizer.ends_generation(token); ++i) {
    std::cout << tokenizer.decode(token) << std::flush;
    if (i + 1 == options.tokens) break;
    token = sample(engine.forward({token}, *cache).row(0));
    ++decoded;
  }
  print_costs(*cache, prompt.size(), prompt_seconds, decoded, decode_time.seconds());
}

}  // namespace squat_llama
