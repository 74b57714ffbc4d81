// What the calls of SQuatCache cost, on random states, one layer and one thread.
//
// ns/token: time over the tokens of the call: appended, encoded, or attended to by one query row.
// GB/s: bytes read over time: the rows that come in, or the cache that attention goes through.
// executor: what one adds to a call that has two empty tasks for each of its threads.
// Several benchmarks fit into the processor's caches; attention_report is about those that do not.
#include <benchmark/benchmark.h>

#include <chrono>
#include <squat/eigen_executor.hpp>
#include <squat/squat.hpp>
#include <squat/thread_executor.hpp>
#include <string>

namespace {

using squat::Index;
using squat::Matrix;
using Cache = squat::SQuatCache<float, 2>;

struct Case {
  squat::ModelShape shape;
  Index tokens;

  std::string name() const {
    return std::to_string(shape.query_heads) + "/" + std::to_string(shape.kv_heads) + "x" +
           std::to_string(shape.head_dim) + "/" + std::to_string(tokens);
  }
};

/// Rows of one layer, uniform in [-1, 1].
struct States {
  explicit States(const Case& c)
      : queries(Matrix<float>::Random(c.tokens, c.shape.query_heads * c.shape.head_dim)),
        keys(Matrix<float>::Random(c.tokens, c.shape.kv_heads * c.shape.head_dim)),
        values(Matrix<float>::Random(c.tokens, c.shape.kv_heads * c.shape.head_dim)) {}

  Index bytes() const {
    return (queries.size() + keys.size() + values.size()) * Index{sizeof(float)};
  }

  Matrix<float> queries, keys, values;
};

squat::Config with_step(Index step) {
  squat::Config config;
  config.quant_group_size = step;
  return config;
}

/// The iterations of a benchmark: what to time between what to prepare.
class Timer {
 public:
  Timer(benchmark::State& state, Index tokens, Index bytes)
      : state_(state), tokens_(tokens), bytes_(bytes) {}
  ~Timer() {
    const double iterations = static_cast<double>(state_.iterations());
    state_.counters["ns/token"] = 1e9 * seconds_ / (iterations * static_cast<double>(tokens_));
    state_.counters["GB/s"] = 1e-9 * iterations * static_cast<double>(bytes_) / seconds_;
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  template <class Work>
  void time(Work&& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    benchmark::ClobberMemory();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    state_.SetIterationTime(taken.count());
    seconds_ += taken.count();
  }

 private:
  benchmark::State& state_;
  Index tokens_, bytes_;
  double seconds_ = 0;
};

/// A prompt into an empty cache: copied, and its queries fitted.
void update_prompt(benchmark::State& state, const Case& c) {
  const States states(c);
  Cache cache(c.shape);
  Timer timer(state, c.tokens, states.bytes());
  for (auto _ : state) {
    cache.clear();
    timer.time([&] {
      cache.update(0, squat::Queries(states.queries), squat::Keys(states.keys),
                   squat::Values(states.values));
    });
  }
}

/// Tokens one by one behind a prompt of as many: update quantizes what leaves the residual.
void update_decode(benchmark::State& state, const Case& c, const squat::Config& config,
                   squat::FitQueries fit) {
  const States states(c);
  Cache cache(c.shape, config);
  squat::CallOptions options;
  options.fit = fit;
  cache.update(0, squat::Queries(states.queries), squat::Keys(states.keys),
               squat::Values(states.values));
  cache.flush(0);
  Timer timer(state, c.tokens, states.bytes());
  for (auto _ : state) {
    cache.truncate(c.tokens);
    timer.time([&] {
      for (Index token = 0; token < c.tokens; ++token)
        cache.update(0, squat::Queries(states.queries.row(token)),
                     squat::Keys(states.keys.row(token)), squat::Values(states.values.row(token)),
                     options);
    });
  }
}

/// The keys and all but the newest 32 values of a prompt.
void flush(benchmark::State& state, const Case& c, Index step) {
  const States states(c);
  Cache cache(c.shape, with_step(step));
  // As many tokens ahead of it keep the subspace, so that the loop fits none.
  cache.update(0, squat::Queries(states.queries), squat::Keys(states.keys),
               squat::Values(states.values));
  cache.flush(0);
  Timer timer(state, c.tokens, (states.keys.size() + states.values.size()) * Index{sizeof(float)});
  for (auto _ : state) {
    cache.truncate(c.tokens);
    cache.update(0, squat::Queries(states.queries), squat::Keys(states.keys),
                 squat::Values(states.values));
    timer.time([&] { cache.flush(0); });
  }
}

/// The row of a token that was decoded behind a prompt, over the whole cache.
void attend(benchmark::State& state, const Case& c, const squat::Config& config) {
  const States states(c);
  Cache cache(c.shape, config);
  const auto append = [&](Index first, Index count) {
    cache.update(0, squat::Queries<float>(states.queries.middleRows(first, count)),
                 squat::Keys<float>(states.keys.middleRows(first, count)),
                 squat::Values<float>(states.values.middleRows(first, count)));
  };
  append(0, c.tokens - 1);
  append(c.tokens - 1, 1);
  const squat::MemoryUsage memory = cache.memory();
  Matrix<float> out(1, states.queries.cols());
  Timer timer(state, c.tokens, memory.codes + memory.scales + memory.residual);
  for (auto _ : state) timer.time([&] { cache.attend(0, states.queries.topRows(1), out); });
}

/// Blocks of 32 keys of one head, by the quantizer alone.
void encode_keys(benchmark::State& state, const Case& c, Index step) {
  const States states(c);
  const Index d = c.shape.head_dim;
  const squat::Config config = with_step(step);
  squat::SecondMoment moment(d);
  moment.add<float>(states.queries.leftCols(d));
  const squat::ErrorFeedback<float> feedback(
      squat::QuerySubspace::fit(moment, config.subspace_dim, config.squat_lambda), step);
  const squat::KeyQuantizer<float> quantizer(d, 2, config);
  const squat::detail::Slab record(1, 1, quantizer.block().bytes(), 0);
  const Index block = config.token_group_size;
  Timer timer(state, c.tokens, c.tokens * d * Index{sizeof(float)});
  for (auto _ : state)
    timer.time([&] {
      for (Index first = 0; first < c.tokens; first += block)
        quantizer.quantize(states.keys.block(first, 0, block, d), feedback, record.keys(0, 0));
    });
}

/// Values of one head, by the quantizer alone.
void encode_values(benchmark::State& state, const Case& c) {
  const States states(c);
  const Index d = c.shape.head_dim;
  const squat::ValueQuantizer<float> quantizer(d, 2, squat::Config{});
  const squat::detail::Slab record(1, 1, quantizer.block().bytes(), 0);
  Timer timer(state, c.tokens, c.tokens * d * Index{sizeof(float)});
  for (auto _ : state)
    timer.time([&] {
      for (Index token = 0; token < c.tokens; ++token)
        quantizer.quantize(states.values.row(token).data(), record.keys(0, 0),
                           token % quantizer.block().tokens());
    });
}

void run_tasks(benchmark::State& state, squat::Executor& executor) {
  const Index tasks = 2 * executor.concurrency();
  for (auto _ : state) executor.run(tasks, [](Index i) { benchmark::DoNotOptimize(i); });
}

void serial_executor(benchmark::State& state) {
  squat::SerialExecutor executor;
  run_tasks(state, executor);
}

void thread_executor(benchmark::State& state, int threads) {
  squat::ThreadExecutor executor(threads);
  run_tasks(state, executor);
}

void eigen_executor(benchmark::State& state, int threads) {
  Eigen::ThreadPool pool(threads - 1);
  squat::EigenExecutor executor(pool);
  run_tasks(state, executor);
}

template <class Function, class... Arguments>
void add(const std::string& name, Function function, const Arguments&... arguments) {
  benchmark::RegisterBenchmark(name.c_str(), function, arguments...)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

void add_executors() {
  benchmark::RegisterBenchmark("executor/serial", serial_executor);
  for (const int threads : {2, 4, 16}) {
    const std::string suffix = "/" + std::to_string(threads);
    benchmark::RegisterBenchmark(("executor/threads" + suffix).c_str(), thread_executor, threads)
        ->UseRealTime();
    benchmark::RegisterBenchmark(("executor/eigen" + suffix).c_str(), eigen_executor, threads)
        ->UseRealTime();
  }
}

void add_all() {
  add_executors();
  const squat::ModelShape shapes[] = {{1, 32, 8, 128}, {1, 9, 3, 64}, {1, 4, 1, 256}};
  for (const squat::ModelShape& shape : shapes) {
    for (const Index tokens : {64, 256, 1024, 4096}) {
      const Case c{shape, tokens};
      add("attend/published/" + c.name(), attend, c, squat::Config{});
      for (const double bits : {2.5, 4.5})
        add("attend/recommended/" + std::string(bits < 3 ? "2.5/" : "4.5/") + c.name(), attend, c,
            squat::Config::recommended(bits));
      if (tokens >= 1024) add("update/prompt/" + c.name(), update_prompt, c);
    }
    const Case c{shape, 1024};
    const Case longer{shape, 2048};  // long enough for keys to follow the queries
    squat::Config recommended = squat::Config::recommended(2.5);
    recommended.shared_svd = false;
    add("update/decode/published/" + c.name(), update_decode, c, squat::Config{},
        squat::FitQueries::first_update);
    add("update/decode/recommended/" + longer.name(), update_decode, longer, recommended,
        squat::FitQueries::first_update);
    add("update/decode/follow/" + longer.name(), update_decode, longer, recommended,
        squat::FitQueries::follow);
    for (const Index step : {64, 1}) {
      const std::string suffix = "/step" + std::to_string(step) + "/" + c.name();
      add("flush" + suffix, flush, c, step);
      add("encode_keys" + suffix, encode_keys, c, step);
    }
    add("encode_values/" + c.name(), encode_values, c);
  }
}

}  // namespace

int main(int argc, char** argv) {
  add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
