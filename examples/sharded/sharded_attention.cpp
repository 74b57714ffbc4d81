// Attention over a sequence whose tokens are spread over the ranks of MPI, against one cache that
// holds them all.
//
//   mpirun -n RANKS sharded_attention [REPEATS]     REPEATS: of the prompt, for a longer one
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>

#include "comparison.hpp"

namespace {

using sharded::Index;
using sharded::Ranks;
using sharded::Result;
using sharded::Sequence;

struct Case {
  const char* name;
  squat::Config config;
  bool one_metric;
  double tolerance;  ///< of the outputs' difference in decoding, beside roundoff
};

/// Blocks are those of one cache, and so are codes where nothing is fitted on a rank's own tokens:
/// neither the metric nor, from the keys, channels' widths and what scales of 8 bits are against.
std::vector<Case> cases() {
  squat::Config even = squat::Config::recommended(3.5);
  even.adaptive_bits = false;
  even.key_bits = 3;
  even.scale_bits = 16;
  squat::Config exact = even;
  exact.arithmetic = squat::Arithmetic::dequantized;
  // Fast arithmetic can round one of its integers the other way.
  return {{"same codes, exact arithmetic", exact, true, 0},
          {"same codes, fast arithmetic", even, true, 1e-3},
          {"recommended, fitted by rank", squat::Config::recommended(2.5), false, 1}};
}

template <class Wire>
Result compare(Ranks& ranks, const Sequence& sequence, const Case& which) {
  return sharded::Comparison<Wire>(ranks, sequence, which.config, which.one_metric).run();
}

void print_head(const Ranks& ranks, const Sequence& sequence) {
  std::printf(
      "Layer 20 of SmolLM2-135M-Instruct: 9 query heads, 3 key-value heads of 64 channels. A "
      "prompt\n"
      "of %td tokens in %d ranks; the last rank takes %td more, one by one.\n\n"
      "| cache                        | wire    | prompt  | decoding | error of one | of shards | "
      "bytes down |   bytes up | one, us | part, us | shards, us |\n"
      "|------------------------------|---------|---------|----------|--------------|-----------|-"
      "-----------|------------|---------|----------|------------|\n",
      sequence.prompt_tokens(), ranks.count(), sequence.size() - sequence.prompt_tokens());
}

/// Prints a row; returns whether all is as it must be. `roundoff` is that of the sums and of the
/// wire.
bool report(const Case& which, const char* wire, double roundoff, const Result& result) {
  std::printf(
      "| %-28s | %-7s | %.1e | %8.1e | %10.2f %% | %7.2f %% | %10td | %10td | %7.1f | %8.1f | "
      "%10.1f "
      "|\n",
      which.name, wire, result.prompt_difference, result.decoding_difference,
      100 * result.error_of_one, 100 * result.error_of_shards, result.bytes_of_queries,
      result.bytes_of_outputs, result.time_of_one, result.time_of_slowest_part,
      result.time_of_shards);
  return result.prompt_difference <= roundoff &&
         result.decoding_difference <= which.tolerance + roundoff &&
         result.error_of_shards <= 1.1 * result.error_of_one;
}

void print_notes() {
  std::puts(
      "\n"
      "prompt, decoding     largest difference between the outputs of shards and of one cache,\n"
      "                     relative to the largest value; a prompt is in full precision\n"
      "error                |output - full precision| / |full precision| of decoded tokens\n"
      "bytes down, up       a decoded token and layer, all ranks: queries out, outputs with\n"
      "                     log-sum-exps back\n"
      "one, part, shards    time of a decoded token and layer: one cache; the slowest rank's own\n"
      "                     tokens; all ranks with their messages");
}

bool run(Index repeats) {
  Ranks ranks;
  const Sequence sequence(repeats);
  const bool speaks = ranks.rank() == ranks.last();
  const double sums = static_cast<double>(sequence.size()) / (1 << 24);  // of so many terms
  bool good = true;
  if (speaks) print_head(ranks, sequence);
  for (const Case& which : cases()) {
    const Result single = compare<float>(ranks, sequence, which);
    const Result half = compare<Eigen::half>(ranks, sequence, which);
    if (!speaks) continue;
    good &= report(which, "float32", sums, single);
    good &= report(which, "float16", sums + 1.0 / (1 << 11), half);
  }
  if (speaks) print_notes();
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int status = 1;
  try {
    const int repeats = argc > 1 ? std::atoi(argv[1]) : 1;
    if (repeats < 1)
      throw std::runtime_error(std::string("REPEATS is ") + argv[1] + "; it must be at least 1");
    status = run(repeats) ? 0 : 1;
    if (status != 0) std::fputs("shards and one cache differ by more than they may\n", stderr);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    MPI_Abort(MPI_COMM_WORLD, 1);  // the others wait for this rank
  }
  MPI_Finalize();
  return status;
}
