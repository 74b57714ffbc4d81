// Quantizes the keys and values of one layer of a real model and prints what its attention loses.
//
//   quickstart [DATA]     DATA: a file to write for quickstart.gnuplot, which draws it
#include <cstdio>
#include <iostream>

#include "quickstart/decode_time.hpp"
#include "quickstart/measurement.hpp"

namespace {

using quickstart::DenseAttention;
using quickstart::LayerStates;
using quickstart::Measurement;

struct Contestant {
  const char* name;
  squat::Config config;
};

/// Caches with about the bytes of codes of `bits` bits.
std::vector<Contestant> contestants(int bits) {
  std::vector<Contestant> all(4);
  all[0].name = "min-max";
  all[0].config.squat_lambda = 0;
  all[1].name = "SQuat as published";
  all[2].name = "SQuat, step 1";
  all[2].config.quant_group_size = 1;
  for (Contestant& contestant : all)
    contestant.config.key_bits = contestant.config.value_bits = bits;
  // Scales and zero points of the others take another bit.
  all[3] = {"recommended", squat::Config::recommended(bits + 1)};
  return all;
}

void print_row(const char* name, const char* bits, double bits_per_element, squat::Index bytes,
               double kl_divergence, double output_error) {
  std::printf("| %-24s | %4s | %12.2f | %7td | %13.4f | %10.1f %% |\n", name, bits,
              bits_per_element, bytes, kl_divergence, 100 * output_error);
}

void print_head(const LayerStates& states) {
  std::puts(
      "Layer 20 of SmolLM2-135M-Instruct: 9 query heads, 3 key-value heads of 64 channels.\n"
      "A cache quantizes the keys and values of a 1024-token prompt, all of them. Then the "
      "queries\n"
      "of the 256 tokens that follow attend to the whole prompt.\n\n"
      "| cache                    | bits | bits/element |   bytes | KL divergence | output error "
      "|\n"
      "|--------------------------|------|--------------|---------|---------------|--------------"
      "|");
  // The states come as float16.
  print_row("full precision", "16", 16,
            2 * 2 * states.prompt_tokens * states.shape.kv_heads * states.shape.head_dim, 0, 0);
}

/// One measurement for each of contestants().
std::vector<Measurement> measure_all(int bits, const LayerStates& states,
                                     const DenseAttention& exact) {
  std::vector<Measurement> measurements;
  for (const Contestant& contestant : contestants(bits)) {
    const Measurement m = quickstart::measure(states, exact, contestant.config);
    const std::string width =
        contestant.config.adaptive_bits ? std::string("1-8") : std::to_string(bits);
    print_row(contestant.name, width.c_str(), m.bits_per_element, m.packed_bytes,
              m.mean_kl_divergence(), m.output_error);
    measurements.push_back(m);
  }
  return measurements;
}

void print_notes(squat::Index other_bytes) {
  std::printf(
      "\n"
      "bits/element, bytes  codes, scales, zero points and what blocks share, of the prompt. The\n"
      "                     cache of the last row holds %td bytes beside them: exact tokens,\n"
      "                     feedback tables and room for what comes.\n"
      "KL divergence        of the attention weights, full precision || quantized, in nats: mean\n"
      "                     over queries and heads.\n"
      "output error         |quantized - full precision| / |full precision| of the output, as\n"
      "                     SQuatCache::attend computes it.\n"
      "as published         Config{}: steps of 64 channels, so a head of 64 has no feedback and "
      "is\n"
      "                     min-max. Step 1 hands every channel's error on.\n"
      "recommended          Config::recommended(bits): bits by channel, unbiased 8-bit scales, an\n"
      "                     exact first token, rotated values, normalised lambda.\n",
      other_bytes);
}

void print_time(const LayerStates& states) {
  const auto cache = quickstart::cache_prompt(states, squat::Config::recommended(2.5));
  const quickstart::DecodeTime time = quickstart::time_decode(states, cache);
  std::printf(
      "\nAttention of one new token, this layer, one thread (median of 101): %.0f us with Eigen "
      "over\n"
      "float keys and values, %.0f us over the recommended cache of 2.5 bits.\n",
      time.full_precision, time.cached);
}

/// For quickstart.gnuplot: KL divergence by query head at 2 bits, then its mean by bits.
void write_data(const char* path, const std::vector<std::vector<Measurement>>& by_bits) {
  std::ofstream file(path);
  const auto names = [&](const char* first) {
    file << first;
    for (const Contestant& contestant : contestants(2)) file << "\t\"" << contestant.name << '"';
    file << '\n';
  };
  names("head");
  for (std::size_t head = 0; head < by_bits[0][0].kl_divergence.size(); ++head) {
    file << head;
    for (const Measurement& m : by_bits[0]) file << '\t' << m.kl_divergence[head];
    file << '\n';
  }
  file << "\n\n";
  names("bits");
  for (std::size_t i = 0; i < by_bits.size(); ++i) {
    file << i + 3 << " bits";
    for (const Measurement& m : by_bits[i]) file << '\t' << m.mean_kl_divergence();
    file << '\n';
  }
  if (!file.flush()) throw std::runtime_error(std::string(path) + " cannot be written");
}

}  // namespace

int main(int argc, char** argv) try {
  const LayerStates states = quickstart::read_layer20(SQUAT_EXAMPLES_DIR "/data");
  const DenseAttention exact = quickstart::exact_attention(states);
  print_head(states);
  std::vector<std::vector<Measurement>> by_bits;
  for (const int bits : {2, 3, 4}) by_bits.push_back(measure_all(bits, states, exact));
  print_notes(by_bits.back().back().other_bytes);
  print_time(states);
  if (argc > 1) write_data(argv[1], by_bits);
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
