// Layers of different widths, and how bits are divided among them.
#include <gtest/gtest.h>

#include <sstream>

#include "expect_error.hpp"
#include "small_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

const ModelShape three_layers{3, 4, 2, 16};

Config divided() {
  Config config = Config::recommended(2.5);
  config.layer_bits = {{1.5, 3}, {4.25, 1}, {0, 0}};  // the last as all
  return config;
}

void feed(Cache& cache, Index layer, const Tokens& tokens, Index from, Index count) {
  cache.update(layer, Queries(tokens.queries.middleRows(from, count)),
               Keys(tokens.keys.middleRows(from, count)),
               Values(tokens.values.middleRows(from, count)));
}

TEST(LayerBits, EachLayerIsThatOfACacheOfItsOwn) {
  const Config config = divided();
  Cache all(three_layers, config);
  for (Index layer = 0; layer < 3; ++layer) {
    const Tokens tokens(300, static_cast<unsigned>(layer));
    Cache alone(shape, config.of_layer(layer));
    for (const auto& [from, count] : {std::pair<Index, Index>{0, 230}, {230, 70}}) {
      feed(all, layer, tokens, from, count);
      feed(alone, 0, tokens, from, count);
    }
    all.flush(layer);
    alone.flush(0);
    EXPECT_TRUE(same(all.keys(layer), alone.keys(0)));
    EXPECT_TRUE(same(all.values(layer), alone.values(0)));
    const Rows queries = tokens.queries.bottomRows(2);
    Rows out(2, query_width);
    all.attend(layer, queries, out);
    EXPECT_TRUE(same(out, attend(alone, queries)));
  }
}

TEST(LayerBits, AreSavedAndForked) {
  Cache cache(three_layers, divided(), 2), loaded(three_layers, divided(), 2);
  for (Index layer = 0; layer < 3; ++layer)
    feed(cache, layer, Tokens(200, static_cast<unsigned>(layer)), 0, 200);
  for (Index layer = 0; layer < 3; ++layer) cache.flush(layer);
  std::stringstream file;
  cache.save(file);
  loaded.load(file);
  loaded.fork(0, 1);
  for (Index layer = 0; layer < 3; ++layer) {
    EXPECT_TRUE(same(loaded.keys(layer), cache.keys(layer)));
    EXPECT_TRUE(same(loaded.values(layer, sequence(1)), cache.values(layer)));
  }
}

TEST(LayerBits, OfAnotherNumberOfLayersAreRefused) {
  Config config = divided();
  EXPECT_ERROR(Cache(shape, config), "config.layer_bits has 3 entries", "each of the 1 layers");
  config.layer_bits[1].keys = 9;
  EXPECT_ERROR(Cache(three_layers, config), "config.layer_bits[1].key_bits is 9", "1 to 8");
  config.layer_bits[1] = {2, 5};
  EXPECT_ERROR(Cache(three_layers, config), "config.layer_bits[1].value_bits is 5", "1, 2, 3, 4");
  config.adaptive_bits = false;
  config.layer_bits[1] = {2, 2};
  config.key_bits = 2;
  EXPECT_ERROR(Cache(three_layers, config), "config.layer_bits[0].key_bits is 1.5", "whole");
}

double bits_of(const Config& config) {
  double sum = 0;
  for (const LayerBits& bits : config.layer_bits) sum += bits.keys + bits.values;
  return sum / static_cast<double>(config.layer_bits.size());
}

TEST(DivideBits, KeepsToTheMeanAndGivesMoreToWhatCostsMore) {
  std::vector<LayerCost> costs(24);
  for (std::size_t i = 0; i < costs.size(); ++i)
    costs[i] = {std::exp2(-static_cast<double>(i)), std::exp2(static_cast<double>(i % 5))};
  for (const double mean : {1.75, 2.25, 2.5, 3.0, 4.5, 8.0}) {
    const Config config = divide_bits(mean, costs), even = Config::recommended(mean);
    check(ModelShape{24, 1, 1, 64}, config);
    EXPECT_LE(bits_of(config), even.key_bits + even.value_bits);
    EXPECT_GE(bits_of(config), even.key_bits + even.value_bits - 0.125);
    for (std::size_t i = 1; i < costs.size(); ++i)
      EXPECT_LE(config.layer_bits[i].keys, config.layer_bits[i - 1].keys);
    EXPECT_GE(config.layer_bits[4].values, config.layer_bits[0].values);
  }
  EXPECT_EQ(divide_bits(2.5, {{0, 0}, {1, 1}}).layer_bits.size(), 2u);
}

TEST(DivideBits, OfLayersThatCostTheSameIsEven) {
  const Config config = divide_bits(3, std::vector<LayerCost>(8, {1, 1}));
  for (const LayerBits& bits : config.layer_bits) {
    EXPECT_NEAR(bits.keys, config.layer_bits[0].keys, 0.125);
    EXPECT_NEAR(bits.values, config.layer_bits[0].values, 1);
  }
}

TEST(DivideBits, RefusesWhatIsNoCost) {
  EXPECT_ERROR(divide_bits(2.5, {}), "costs", "no layer");
  EXPECT_ERROR(divide_bits(2.5, {{1, 1}, {1, -2}}), "costs of layer 1 have -2", "not negative");
  EXPECT_ERROR(divide_bits(2.5, {{std::nan(""), 1}}), "costs of layer 0", "nan", "finite");
  EXPECT_ERROR(divide_bits(1, {{1, 1}}), "mean_bits is 1", "1.75 to 8");
}

}  // namespace
}  // namespace squat::testing
