// Caches in programs that trap floating-point exceptions, round otherwise or flush denormal
// numbers.
#include <gtest/gtest.h>

#include <cfenv>
#include <functional>
#include <squat/thread_executor.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "small_cache.hpp"

#if defined(__SSE2_MATH__)
#include <xmmintrin.h>
#endif

namespace squat::testing {
namespace {

constexpr Index environment_prompt = 180, environment_tokens = 200;
constexpr int errors = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;

/// A way to compute that a program may have chosen.
struct FloatEnvironment {
  std::string name;
  std::function<void()> set;
};

std::vector<FloatEnvironment> float_environments() {
  std::vector<FloatEnvironment> all;
  const auto rounding = [&]([[maybe_unused]] const char* name, [[maybe_unused]] int mode) {
    all.push_back({name, [mode] { std::fesetround(mode); }});
  };
#if defined(FE_UPWARD)
  rounding("upward", FE_UPWARD);
#endif
#if defined(FE_DOWNWARD)
  rounding("downward", FE_DOWNWARD);
#endif
#if defined(FE_TOWARDZERO)
  rounding("toward zero", FE_TOWARDZERO);
#endif
#if defined(__SSE2_MATH__)
  all.push_back({"flush to zero, denormals are zero", [] { _mm_setcsr(_mm_getcsr() | 0x8040); }});
#endif
#if defined(__GLIBC__)
  all.push_back({"traps", [] { feenableexcept(errors); }});
#endif
  return all;
}

/// Sets an environment for as long as it lives.
class Within {
 public:
  explicit Within(const FloatEnvironment& environment) {
    std::fegetenv(&before_);
    environment.set();
  }
  ~Within() { std::fesetenv(&before_); }
  Within(const Within&) = delete;
  Within& operator=(const Within&) = delete;

 private:
  std::fenv_t before_;
};

std::vector<std::pair<std::string, Config>> environment_configs() {
  std::vector<std::pair<std::string, Config>> configs = {{"published", {}}};
  for (const double bits : {1.75, 2.5, 8.0})
    configs.emplace_back("recommended " + std::to_string(bits), Config::recommended(bits));
  configs.emplace_back("hqq", Config());
  configs.back().second.backend = Backend::hqq;
  configs.emplace_back("scales per token", strong_feedback());
  configs.back().second.key_scales = KeyScales::per_token;
  configs.emplace_back("dequantized", strong_feedback());
  configs.back().second.arithmetic = Arithmetic::dequantized;
  return configs;
}

/// Keys and values of all kinds that make quantizers divide by zero.
std::vector<std::pair<std::string, Tokens>> environment_tokens_of_kinds() {
  const auto changed = [](const std::function<void(Tokens&)>& change) {
    Tokens tokens(environment_tokens, 61);
    change(tokens);
    return tokens;
  };
  return {{"plain", changed([](Tokens&) {})},
          {"zeros", changed([](Tokens& t) { t.keys.setZero(), t.values.setZero(); })},
          {"constant channels", changed([](Tokens& t) {
             t.keys.leftCols(16).setConstant(0.01f);
             t.values.leftCols(16).setConstant(0.01f);
           })},
          {"outliers", changed([](Tokens& t) { t.keys(100, 3) = t.values(50, 7) = 65504; })},
          {"tiny", changed([](Tokens& t) { t.keys *= 1e-36f, t.values *= 1e-36f; })},
          {"denormal", changed([](Tokens& t) { t.keys *= 1e-42f, t.values *= 1e-42f; })}};
}

/// What a cache gives back and keeps: attention, codes and a file.
struct Everything {
  std::vector<Rows> attended;
  std::string file;
};

/// Every call that computes.
Everything use_cache(const Config& config, const Tokens& tokens, Executor& executor) {
  Everything all;
  Cache cache(shape, config, 2);
  cache.set_executor(executor);
  Rows prompt(environment_prompt, query_width);
  cache.attention(0, Queries(tokens.queries.topRows(environment_prompt)),
                  Keys(tokens.keys.topRows(environment_prompt)),
                  Values(tokens.values.topRows(environment_prompt)), prompt);
  all.attended.push_back(prompt);
  for (Index token = environment_prompt; token < environment_tokens; ++token) {
    update(cache, tokens, token, 1);
    cache.flush(0);
    all.attended.push_back(attend(cache, tokens.queries.row(token)));
  }
  std::stringstream file;
  cache.save(file);
  all.file = file.str();
  cache.load(file);
  cache.fork(0, 1);
  all.attended.push_back(attend(cache, tokens.queries.bottomRows(3), sequence(1)));
  all.attended.push_back(cache.keys(0));
  all.attended.push_back(cache.values(0, sequence(1)));
  return all;
}

bool same_everything(const Everything& a, const Everything& b) {
  bool all = a.file == b.file && a.attended.size() == b.attended.size();
  for (std::size_t i = 0; all && i < a.attended.size(); ++i)
    all = same(a.attended[i], b.attended[i]);
  return all;
}

TEST(FloatEnvironment, OfTheProgramChangesNothing) {
  for (const auto& [kind, tokens] : environment_tokens_of_kinds())
    for (const auto& [name, config] : environment_configs()) {
      SerialExecutor serial;
      const Everything expected = use_cache(config, tokens, serial);
      for (const FloatEnvironment& environment : float_environments()) {
        const Within within(environment);
        const Everything found = use_cache(config, tokens, serial);
        EXPECT_TRUE(same_everything(found, expected))
            << environment.name << ", " << kind << ", " << name;
      }
    }
}

TEST(FloatEnvironment, OfThreadsChangesNothing) {
  const Tokens tokens(environment_tokens, 62);
  SerialExecutor serial;
  const Everything expected = use_cache(Config::recommended(2.5), tokens, serial);
  for (const FloatEnvironment& environment : float_environments()) {
    const Within within(environment);
    ThreadExecutor executor(3);  // whose threads begin with the environment of this one
    EXPECT_TRUE(same_everything(use_cache(Config::recommended(2.5), tokens, executor), expected))
        << environment.name;
  }
}

TEST(FloatEnvironment, OfTheProgramStays) {
  const Tokens tokens(environment_tokens, 63);
  SerialExecutor serial;
  for (const FloatEnvironment& environment : float_environments()) {
    const Within within(environment);
    std::feclearexcept(FE_ALL_EXCEPT);
    const int rounding = std::fegetround();
    use_cache(Config::recommended(2.5), tokens, serial);
    EXPECT_EQ(std::fegetround(), rounding) << environment.name;
    EXPECT_EQ(std::fetestexcept(errors), 0) << environment.name;
#if defined(__SSE2_MATH__)
    const unsigned control = _mm_getcsr() & ~0x3fu;
    Cache(shape, Config::recommended(2.5));
    EXPECT_EQ(_mm_getcsr() & ~0x3fu, control) << environment.name;
#endif
  }
}

TEST(FloatEnvironment, OfMomentsChangesNothing) {
  const Tokens tokens(environment_tokens, 64);
  const auto gathered = [&] {
    QueryMoments moments(shape), others(shape);
    moments.add<float>(0, tokens.queries);
    others.add<float>(0, tokens.queries.topRows(100));
    moments.add(others);
    std::ostringstream out;
    moments.save(out);
    return out.str();
  };
  const std::string expected = gathered();
  for (const FloatEnvironment& environment : float_environments()) {
    const Within within(environment);
    EXPECT_TRUE(gathered() == expected) << environment.name;
  }
}

}  // namespace
}  // namespace squat::testing
