// Timing of contestants in turn, so that a machine that is slow for a while is slow for all of
// them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

namespace benchmarks {

/// Something to be timed: `run`, over several layers in turn so that no cache level holds the data.
struct Contestant {
  std::string name;
  double bytes = 0;  ///< what `run` has to read
  int layers = 1;
  std::function<void(int layer)> run;
  std::function<void()> prepare;  ///< before its turn in a round, not timed; may be empty
  std::function<void()> finish;   ///< after it, likewise
};

/// Nanoseconds per call of `run`.
struct Timing {
  double median = 0, lower_quartile = 0, upper_quartile = 0;
  double ratio = 0;  ///< median over the rounds of base / this: above 1 is faster than the base
};

enum class Clock {
  wall,
  processor,  ///< of the calling thread: excludes the time when other programs had the core
};

struct InterleaveOptions {
  int rounds = 15;
  int warm_up_rounds = 1;
  std::size_t base = 0;  ///< index of the contestant that the ratios refer to
  Clock clock = Clock::wall;
};

inline double now_ns([[maybe_unused]] Clock clock) {
#if defined(CLOCK_THREAD_CPUTIME_ID)
  if (clock == Clock::processor) {
    std::timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
  }
#endif
  return std::chrono::duration<double, std::nano>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// The value below which `fraction` of `samples` lie, interpolated linearly.
inline double quantile(std::vector<double> samples, double fraction) {
  std::sort(samples.begin(), samples.end());
  const double position = fraction * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] +
         (position - static_cast<double>(below)) * (samples[above] - samples[below]);
}

/// Times one round robin after another; the result has one entry a contestant.
inline std::vector<Timing> interleave(const std::vector<Contestant>& contestants,
                                      const InterleaveOptions& options = {}) {
  std::vector<std::vector<double>> samples(contestants.size());
  for (int round = -options.warm_up_rounds; round < options.rounds; ++round)
    for (std::size_t i = 0; i < contestants.size(); ++i) {
      const Contestant& contestant = contestants[i];
      if (contestant.prepare) contestant.prepare();
      const double start = now_ns(options.clock);
      for (int layer = 0; layer < contestant.layers; ++layer) contestant.run(layer);
      const double elapsed = now_ns(options.clock) - start;
      if (contestant.finish) contestant.finish();
      if (round >= 0) samples[i].push_back(elapsed / contestant.layers);
    }

  std::vector<Timing> timings;
  for (const std::vector<double>& times : samples) {
    std::vector<double> ratios;
    for (std::size_t round = 0; round < times.size(); ++round)
      ratios.push_back(samples[options.base][round] / times[round]);
    timings.push_back({quantile(times, 0.5), quantile(times, 0.25), quantile(times, 0.75),
                       quantile(ratios, 0.5)});
  }
  return timings;
}

}  // namespace benchmarks
