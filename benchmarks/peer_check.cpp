// Checks that the peers compute attention: their results against the definition, for decoding and
// for a prompt. Prints the relative errors; fails where one is larger than its type explains.
#include <cstdio>
#include <string>
#include <vector>

#include "ggml_peer.hpp"
#include "ik_peer.hpp"
#include "reference_attention.hpp"

namespace {

using namespace benchmarks;

constexpr int layers = 2;

/// Random states of a shape and their attention.
struct Case {
  explicit Case(const AttentionShape& its_shape)
      : shape(its_shape),
        queries(
            normal_samples(static_cast<std::size_t>(shape.query_rows) * shape.query_width(), 1)),
        keys(normal_samples(static_cast<std::size_t>(shape.tokens) * shape.kv_width(), 2)),
        values(normal_samples(static_cast<std::size_t>(shape.tokens) * shape.kv_width(), 3)),
        reference(reference_attention(shape, queries.data(), keys.data(), values.data())) {}

  /// Whether `out`, of a peer, is near enough.
  bool check(const std::string& peer, int threads, const std::vector<float>& out,
             double largest_error) const {
    const double error = relative_error(out, reference);
    std::printf("%-28s %d rows, %d threads, %-24s relative error %.2e (below %.0e)\n",
                shape.name().c_str(), shape.query_rows, threads, peer.c_str(), error,
                largest_error);
    return error < largest_error;
  }

  AttentionShape shape;
  std::vector<float> queries, keys, values;
  std::vector<double> reference;
};

bool check_ggml(const Case& data, ggml_type type, CacheLayout layout, double largest_error) {
  bool good = true;
  for (const int threads : {1, 2}) {
    GgmlAttention attention(data.shape, layout, type, type, data.keys.data(), data.values.data(),
                            layers, threads);
    std::vector<float> out(data.queries.size());
    attention.resume();
    attention.run(layers - 1, data.queries.data(), out.data());
    attention.pause();
    const std::string name = std::string("ggml ") + ggml_type_name(type) +
                             (layout == CacheLayout::tokens_outermost ? ", tokens outermost" : "");
    good = data.check(name, threads, out, largest_error) && good;
  }
  return good;
}

bool check_ik([[maybe_unused]] const Case& data, [[maybe_unused]] const std::string& type,
              [[maybe_unused]] double largest_error) {
  bool good = true;
#ifdef SQUAT_HAS_IK_PEER
  for (const int threads : {1, 2}) {
    IkAttention attention(data.shape, type, data.keys.data(), data.values.data(), layers, threads);
    std::vector<float> out(data.queries.size());
    attention.run(layers - 1, data.queries.data(), out.data());
    good = data.check("ik_llama.cpp " + type, threads, out, largest_error) && good;
  }
#endif
  return good;
}

}  // namespace

int main() {
  const AttentionShape shapes[] = {
      {8, 2, 128, 1024, 1}, {9, 3, 64, 768, 1}, {4, 1, 256, 1024, 1}, {8, 2, 128, 256, 256}};
  bool good = true;
  for (const AttentionShape& shape : shapes) {
    const Case data(shape);
    for (CacheLayout layout : {CacheLayout::tokens_outermost, CacheLayout::heads_outermost}) {
      good = check_ggml(data, GGML_TYPE_F32, layout, 1e-4) && good;
      good = check_ggml(data, GGML_TYPE_F16, layout, 1e-2) && good;
      good = check_ggml(data, GGML_TYPE_Q8_0, layout, 3e-2) && good;
      good = check_ggml(data, GGML_TYPE_Q4_0, layout, 3e-1) && good;
      good = check_ggml(data, GGML_TYPE_Q4_1, layout, 3e-1) && good;
    }
    good = check_ik(data, "f16", 1e-2) && good;
    good = check_ik(data, "q8_0", 3e-2) && good;
    good = check_ik(data, "q8_KV", 3e-2) && good;
    good = check_ik(data, "q4_0", 3e-1) && good;
  }
  return good ? 0 : 1;
}
