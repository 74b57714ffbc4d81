// Bits divided among the layers of a model.
#pragma once

#include <squat/config.hpp>

namespace squat {

/// What quantizing one layer alone does to a model's output: its divergence, or any other measure
/// of harm, with keys of key_bits in that layer and all else (nearly) exact, and with values of
/// value_bits.
struct LayerCost {
  static constexpr double key_bits = 2.5;
  static constexpr int value_bits = 2;

  double keys = 0;
  double values = 0;
};

/// Config::recommended(mean_bits, context_tokens) for a model whose layers do not all matter alike:
/// of the same bits, layers get as many as make the sum of their harm least, keys in steps of 1/8,
/// values in the widths there are. The harm of an error is taken to fall with its square, which
/// falls by 4 with each bit. Costs are measured on few tokens, and part of what tells them apart is
/// noise: they count by their power of 0.7 (examples/squat_llama/STUDY.md).
inline Config divide_bits(double mean_bits, const std::vector<LayerCost>& costs,
                          Index context_tokens = 0) {
  Config config = Config::recommended(mean_bits, context_tokens);
  require(!costs.empty(), "costs are of no layer");
  for (std::size_t layer = 0; layer < costs.size(); ++layer)
    for (const double cost : {costs[layer].keys, costs[layer].values})
      require(detail::is_finite(cost) && cost >= 0, "costs of layer ", layer, " have ", cost,
              "; it must be finite and not negative");

  // One kind of code in one layer, and what more bits would do.
  struct Part {
    double cost;
    bool is_values;
    double bits;

    double harm(double at) const { return cost * std::exp2(-2 * at); }
    /// The next width, or 0.
    double next() const {
      if (!is_values) return bits < 8 ? bits + 0.125 : 0;
      return bits < 4 ? bits + 1 : bits == 4 ? 8 : 0;
    }
    double gain() const { return (harm(bits) - harm(next())) / (next() - bits); }
  };
  constexpr double least_key_bits = 1.25, least_value_bits = 1, trust = 0.7;
  LayerCost sums, powers;
  for (const LayerCost& cost : costs) {
    sums.keys += cost.keys;
    sums.values += cost.values;
    powers.keys += std::pow(cost.keys, trust);
    powers.values += std::pow(cost.values, trust);
  }
  // The mean stays what it is.
  const auto shrunk = [](double cost, double sum, double power_sum) {
    return sum > 0 ? std::pow(cost, trust) * (sum / power_sum) : 0.0;
  };
  std::vector<Part> parts;
  for (const LayerCost& cost : costs) {
    parts.push_back({shrunk(cost.keys, sums.keys, powers.keys) * std::exp2(2 * LayerCost::key_bits),
                     false, least_key_bits});
    parts.push_back(
        {shrunk(cost.values, sums.values, powers.values) * std::exp2(2 * LayerCost::value_bits),
         true, least_value_bits});
  }
  double left = static_cast<double>(costs.size()) *
                (config.key_bits + config.value_bits - least_key_bits - least_value_bits);
  for (;;) {
    Part* best = nullptr;
    for (Part& part : parts)
      if (part.next() > 0 && part.next() - part.bits <= left &&
          (best == nullptr || part.gain() > best->gain()))
        best = &part;
    if (best == nullptr) break;
    left -= best->next() - best->bits;
    best->bits = best->next();
  }
  for (std::size_t i = 0; i < parts.size(); i += 2)
    config.layer_bits.push_back({parts[i].bits, static_cast<int>(parts[i + 1].bits)});
  return config;
}

}  // namespace squat
