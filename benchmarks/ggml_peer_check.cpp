// Checks that the peer computes attention: ggml's result against the definition, for decoding and
// for a prompt. Prints the relative errors; fails where one is larger than its type explains.
#include <cstdio>
#include <vector>

#include "ggml_peer.hpp"
#include "reference_attention.hpp"

namespace {

using namespace benchmarks;

struct Expectation {
  ggml_type type;
  double largest_error;
};

bool check(const AttentionShape& shape, CacheLayout layout, const Expectation& expected) {
  const auto rows = static_cast<std::size_t>(shape.query_rows);
  const auto tokens = static_cast<std::size_t>(shape.tokens);
  const std::vector<float> queries = normal_samples(rows * shape.query_width(), 1);
  const std::vector<float> keys = normal_samples(tokens * shape.kv_width(), 2);
  const std::vector<float> values = normal_samples(tokens * shape.kv_width(), 3);
  const std::vector<double> reference =
      reference_attention(shape, queries.data(), keys.data(), values.data());

  constexpr int layers = 2;
  bool good = true;
  for (int threads : {1, 2}) {
    GgmlAttention attention(shape, layout, expected.type, expected.type, keys.data(), values.data(),
                            layers, threads);
    std::vector<float> out(queries.size());
    attention.resume();
    attention.run(layers - 1, queries.data(), out.data());
    attention.pause();
    const double error = relative_error(out, reference);
    good = good && error < expected.largest_error;
    std::printf("%-28s %d rows, %s outermost, %d threads, %-5s relative error %.2e (below %.0e)\n",
                shape.name().c_str(), shape.query_rows,
                layout == CacheLayout::tokens_outermost ? "tokens" : "heads", threads,
                ggml_type_name(expected.type), error, expected.largest_error);
  }
  return good;
}

}  // namespace

int main() {
  const AttentionShape shapes[] = {
      {8, 2, 128, 1024, 1}, {9, 3, 64, 777, 1}, {4, 1, 256, 1024, 1}, {8, 2, 128, 200, 200}};
  const Expectation expectations[] = {{GGML_TYPE_F32, 1e-4},
                                      {GGML_TYPE_F16, 1e-2},
                                      {GGML_TYPE_Q8_0, 3e-2},
                                      {GGML_TYPE_Q4_0, 3e-1},
                                      {GGML_TYPE_Q4_1, 3e-1}};
  bool good = true;
  for (const AttentionShape& shape : shapes)
    for (CacheLayout layout : {CacheLayout::tokens_outermost, CacheLayout::heads_outermost})
      for (const Expectation& expectation : expectations)
        good = check(shape, layout, expectation) && good;
  return good ? 0 : 1;
}
