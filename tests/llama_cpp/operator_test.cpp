// Attention of a cache against ggml's own operator, FLASH_ATTN_EXT, over the same keys and values.
#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <squat/squat.hpp>
#include <vector>

#include "../dense_attention.hpp"
#include "../drawn_config.hpp"
#include "../random_matrix.hpp"

namespace squat::testing {
namespace {

using FloatRows = Matrix<float>;

/// What a drawn case has that ggml says in another way.
struct OperatorCase {
  LayerShape shape;
  float max_bias = 0;  // of ALiBi
  CallOptions options;
  std::vector<TokenRange> ranges;
  std::vector<std::uint8_t> tree;
  Index tokens = 0;
  Index rows = 0;
};

/// ALiBi's slopes (Press et al. 2022) as ggml computes them from max_bias.
std::vector<double> slopes(Index heads, double max_bias) {
  const double power = std::exp2(std::floor(std::log2(static_cast<double>(heads))));
  std::vector<double> all;
  for (Index head = 0; head < heads; ++head) {
    const double h = static_cast<double>(head);
    all.push_back(h < power ? std::exp2(-max_bias / power * (h + 1))
                            : std::exp2(-max_bias / 2 / power * (2 * (h - power) + 1)));
  }
  return all;
}

OperatorCase drawn_case(Draw& draw) {
  OperatorCase drawn;
  LayerShape& shape = drawn.shape;
  const Index kv_heads = draw.of<Index>({1, 2, 3});
  shape.kv_heads = kv_heads;
  shape.query_heads = kv_heads * draw.of<Index>({1, 2, 4, 5});
  shape.head_dim = draw.of<Index>({16, 32, 64, 80, 100, 192, 256, 576});
  shape.value_dim = draw.of<Index>({16, 64, 128, 512});
  if (shape.head_dim <= 512 && draw.of({0, 1}) == 1) shape.value_dim = 0;
  shape.values_in_keys = shape.value_width() <= shape.head_dim && draw.of({0, 0, 1}) == 1;
  shape.softmax_scale = draw.of({0.0, 0.05, 0.4});
  const int limit = draw.of({0, 0, 1, 2});
  if (limit == 1) shape.window = draw.of<Index>({1, 17, 64, 100});
  if (limit == 2) shape.chunk = draw.of<Index>({16, 50, 128});
  shape.softcap = draw.of({0.0, 0.0, 2.0, 30.0});
  const std::size_t heads = static_cast<std::size_t>(shape.query_heads);
  if (draw.of({0, 1, 2}) == 0)
    for (std::size_t head = 0; head < heads; ++head)
      shape.sink_logits.push_back(draw.of({-2.0, 0.25, 3.0}));
  if (draw.of({0, 1, 2}) == 0) {
    drawn.max_bias = draw.of({1.0f, 8.0f});
    shape.alibi_slopes = slopes(shape.query_heads, static_cast<double>(drawn.max_bias));
  }
  drawn.tokens = draw.of<Index>({1, 31, 64, 100, 200});
  drawn.rows = std::min(draw.of<Index>({1, 2, 5, 9, 40}), drawn.tokens);
  return drawn;
}

/// Ranges and trees for queries of the newest tokens, of which `first` is the first one held.
void draw_sight(Draw& draw, Index first, OperatorCase& drawn) {
  if (draw.of({0, 1, 2}) == 0) {
    for (Index row = 0; row < drawn.rows; ++row) {
      const Index begin = std::min(first + draw.of<Index>({0, 3, 40, 90}), drawn.tokens - 1);
      drawn.ranges.push_back(
          {begin, std::min(drawn.tokens, begin + draw.of<Index>({1, 12, 77, 400}))});
    }
    drawn.options.visible = drawn.ranges;
  }
  if (draw.of({0, 1, 2}) == 0) {
    for (Index i = 0; i < drawn.rows * drawn.rows; ++i)
      drawn.tree.push_back(draw.of<std::uint8_t>({0, 1}));
    drawn.options.tree = TreeMask(drawn.tree.data(), drawn.rows, drawn.rows);
  }
}

/// FLASH_ATTN_EXT over keys and values, whose first row is token `first` of the sequence.
FloatRows attention_of_ggml(const OperatorCase& drawn, const FloatRows& queries,
                            const FloatRows& keys, const FloatRows& values, Index first) {
  const LayerShape& shape = drawn.shape;
  const Index held = keys.rows(), rows = queries.rows(), width = shape.value_width();
  const Index padded_rows = (rows + 63) / 64 * 64;  // as older versions want masks
  const std::unique_ptr<ggml_context, void (*)(ggml_context*)> context(
      ggml_init({std::size_t{256} << 20, nullptr, false}), ggml_free);
  ggml_context* const c = context.get();
  const auto tensor = [&](const FloatRows& from, Index heads, Index dim) {
    ggml_tensor* to = ggml_new_tensor_3d(c, GGML_TYPE_F32, dim, from.rows(), heads);
    for (Index head = 0; head < heads; ++head) {
      Eigen::Map<FloatRows> all(static_cast<float*>(to->data) + head * from.rows() * dim,
                                from.rows(), dim);
      all = from.middleCols(head * dim, dim);
    }
    return to;
  };
  ggml_tensor* const mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, held, padded_rows);
  auto* const entries = static_cast<ggml_fp16_t*>(mask->data);
  const Sight sight(shape, drawn.options, drawn.tokens, {});
  for (Index row = 0; row < padded_rows; ++row)
    for (Index t = 0; t < held; ++t) {
      const Index position = drawn.tokens - rows + row, token = first + t;
      const bool is_seen = row < rows && sight.sees(row, position, token);
      // A mask of ALiBi has distances, which halves hold exactly up to 2048.
      const float distance = static_cast<float>(std::abs(position - token));
      entries[row * held + t] = ggml_fp32_to_fp16(!is_seen ? -std::numeric_limits<float>::infinity()
                                                  : drawn.max_bias > 0 ? -distance
                                                                       : 0.0f);
    }
  ggml_tensor* out = ggml_flash_attn_ext(
      c, tensor(queries, shape.query_heads, shape.head_dim),
      tensor(keys, shape.kv_heads, shape.head_dim), tensor(values, shape.kv_heads, width), mask,
      static_cast<float>(shape.scale()), drawn.max_bias, static_cast<float>(shape.softcap));
  if (!shape.sink_logits.empty()) {
    ggml_tensor* sinks = ggml_new_tensor_1d(c, GGML_TYPE_F32, shape.query_heads);
    for (Index head = 0; head < shape.query_heads; ++head)
      static_cast<float*>(sinks->data)[head] =
          static_cast<float>(shape.sink_logits[static_cast<std::size_t>(head)]);
    ggml_flash_attn_ext_add_sinks(out, sinks);
  }
  ggml_cgraph* const graph = ggml_new_graph(c);
  ggml_build_forward_expand(graph, out);
  EXPECT_EQ(ggml_graph_compute_with_ctx(c, graph, 1), GGML_STATUS_SUCCESS);
  return Eigen::Map<FloatRows>(static_cast<float*>(out->data), rows, shape.query_heads * width);
}

void expect_as_ggml(unsigned seed) {
  Draw draw(seed);
  OperatorCase drawn = drawn_case(draw);
  const LayerShape& layer = drawn.shape;
  Config config = draw.config();
  config.arithmetic = seed % 2 == 0 ? Arithmetic::dequantized : Arithmetic::fast;
  SCOPED_TRACE(::testing::Message()
               << "seed " << seed << ", heads " << layer.query_heads << "/" << layer.kv_heads
               << " of " << layer.head_dim << " and " << layer.value_dim << ", rows " << drawn.rows
               << " of " << drawn.tokens << ", window " << layer.window << ", chunk " << layer.chunk
               << ", cap " << layer.softcap << ", logits " << layer.sink_logits.size() << ", bias "
               << drawn.max_bias);
  ModelShape shape{1, layer.query_heads, layer.kv_heads, layer.head_dim};
  shape.by_layer.assign(1, layer);
  SQuatCache<float, 8> cache(shape, config);
  const auto tokens = [&](Index columns, unsigned of) {
    return random_matrix<float>(drawn.tokens, columns, 10 * seed + of);
  };
  const FloatRows queries = tokens(layer.query_heads * layer.head_dim, 1);
  const FloatRows keys = tokens(layer.kv_heads * layer.head_dim, 2);
  const Index width = layer.value_width();
  FloatRows values = tokens(layer.kv_heads * width, 3);
  for (Index head = 0; head < layer.kv_heads && layer.values_in_keys; ++head)
    values.middleCols(head * width, width) = keys.middleCols(head * layer.head_dim, width);
  cache.update(0, Queries(queries), Keys(keys),
               Values(values.leftCols(layer.kv_heads * layer.own_value_width())));
  // So that a layer with a window still holds what the rows see.
  if (drawn.rows == 1 || layer.window + layer.chunk == 0) cache.flush(0);
  const Index first = cache.first(0);
  draw_sight(draw, first, drawn);

  const FloatRows rows = queries.bottomRows(drawn.rows);
  FloatRows out(drawn.rows, layer.query_heads * layer.value_width());
  cache.attend(0, rows, out, drawn.options);
  const auto of_ggml = [&](const FloatRows& k, const FloatRows& v) {
    FloatRows expected = attention_of_ggml(drawn, rows, k, v, first);
    const Sight sight(layer, drawn.options, drawn.tokens, {});
    for (Index row = 0; row < drawn.rows; ++row) {  // a row that sees nothing is not defined there
      bool sees_any = false;
      for (Index t = first; t < drawn.tokens; ++t)
        sees_any |= sight.sees(row, drawn.tokens - drawn.rows + row, t);
      if (!sees_any) expected.row(row).setZero();
    }
    return expected;
  };
  const FloatRows expected = of_ggml(cache.keys(0), cache.values(0));
  double allowed = 1e-3 * static_cast<double>(expected.norm());
  if (config.arithmetic == Arithmetic::fast) {
    const Index held = drawn.tokens - first;
    const FloatRows full = of_ggml(keys.bottomRows(held), values.bottomRows(held));
    allowed = std::max(0.15 * static_cast<double>((expected - full).norm()), 20 * allowed);
  }
  EXPECT_LE(static_cast<double>((out - expected).norm()), allowed);
}

class Operator : public ::testing::TestWithParam<unsigned> {};

// Eight lots, so that they run side by side.
TEST_P(Operator, ComputesWhatGgmlComputes) {
  for (unsigned seed = 50 * GetParam(); seed < 50 * GetParam() + 50; ++seed) {
    expect_as_ggml(seed);
    if (::testing::Test::HasFailure()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(DrawnShapes, Operator, ::testing::Range(0u, 8u));

}  // namespace
}  // namespace squat::testing
