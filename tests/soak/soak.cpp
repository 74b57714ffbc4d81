// Many sequences of one cache for a long time: at random they get tokens, fork, are cut short, go
// to files and come back. All that is looked at must be right, and memory must come back.
//
//   squat_soak [TOKENS [SEED]]     TOKENS: to decode with each configuration (200000)
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>

#include "../allocated_bytes.hpp"
#include "checks.hpp"

namespace squat::soak {
namespace {

constexpr Index sequences = 64;

template <class Scalar>
class Soak {
 public:
  Soak(const Config& config, std::uint64_t seed)
      : cache_(ModelShape{layers, 4, 2, 32}, config, sequences),
        histories_(static_cast<std::size_t>(sequences), History(config)),
        random_(seed) {}

  /// Decodes `tokens` tokens, reporting `reports` times, then empties the cache.
  void run(Index tokens, Index reports) {
    const Index empty = cache_.memory().total();
    for (Index i = 1; i <= reports; ++i) {
      while (decoded_ < tokens * i / reports) step();
      report();
    }
    while (decoded_ < tokens) step();
    for (Index sequence = 0; sequence < sequences; ++sequence) check(sequence);
    cache_.clear();
    expect(std::max(checker_.key_error(), checker_.value_error()) < 0.7,
           "quantized tokens are hardly like those that were given");
    const Index now = cache_.memory().total();
    expect(now == empty, "the empty cache had ", empty, " bytes; emptied it has ", now);
  }

 private:
  using Cache = SQuatCache<Scalar, 2>;

  void step() {
    const Index sequence = below(sequences);
    // One token at a time, a few when drafts are verified, a prompt where nothing is.
    append(sequence, history(sequence).size() == 0 ? 1 + below(200)
                     : below(20) > 0               ? 1
                                                   : 1 + below(8));
    if (below(50) == 0) check(sequence);
    if (below(300) == 0) truncate(sequence);
    if (below(400) == 0) fork(sequence, below(sequences));
    if (below(600) == 0) move_to_file(sequence, below(sequences));
    if (below(20000) == 0) all_to_file();
  }

  void append(Index sequence, Index count) {
    const bool is_prompt = history(sequence).size() == 0;
    const Index padding = is_prompt && below(3) == 0 ? below(count) : 0;  // on the left
    std::vector<Token> tokens(static_cast<std::size_t>(count));
    std::vector<std::uint8_t> mask;
    for (Token& token : tokens) {
      token.seed = random_();
      token.valid = static_cast<Index>(mask.size()) >= padding;
      mask.push_back(token.valid);
    }
    CallOptions options = of(sequence);
    options.mask = mask;
    const Index query_width = cache_.shape().query_heads * cache_.shape().head_dim;
    const Index key_width = cache_.shape().kv_heads * cache_.shape().head_dim;
    for (Index layer = 0; layer < layers; ++layer) {
      Matrix<Scalar> out(count, query_width);
      cache_.attention(layer, Queries(rows_of<Scalar>('q', layer, tokens, query_width)),
                       Keys(rows_of<Scalar>('k', layer, tokens, key_width)),
                       Values(rows_of<Scalar>('v', layer, tokens, key_width)), out, options);
      expect(out.template cast<double>().allFinite(), "attention is not finite");
    }
    history(sequence).append(tokens);
    (is_prompt ? prompted_ : decoded_) += count;
  }

  /// By a few tokens, as drafts are refused, to anywhere, or to nothing.
  void truncate(Index sequence) {
    const Index size = history(sequence).size(), choice = below(4);
    const Index kept = choice == 0   ? 0
                       : choice == 1 ? below(size + 1)
                                     : std::max(size - below(40), Index{0});
    cache_.truncate(kept, of(sequence));
    history(sequence).truncate(kept);
    check(sequence);
    ++truncations_;
  }

  void fork(Index from, Index to) {
    cache_.fork(from, to);
    history(to) = history(from);
    check(to);
    check(from);
    ++forks_;
  }

  /// Out of one sequence into another, after a file that was altered or cut short was refused.
  void move_to_file(Index from, Index to) {
    std::ostringstream out;
    cache_.save(out, from);
    std::string file = out.str(), damaged = file;
    const std::size_t where = static_cast<std::size_t>(below(static_cast<Index>(file.size())));
    if (below(2) == 0)
      damaged[where] = static_cast<char>(damaged[where] ^ 1 << below(8));
    else
      damaged.resize(where);
    bool refused = false;
    try {
      std::istringstream in(damaged);
      cache_.load(in, to);
    } catch (const Error&) {
      refused = true;
    }
    expect(refused, "a file that was damaged at byte ", where, " of ", file.size(), " was loaded");
    check(to);
    std::istringstream in(file);
    cache_.load(in, to);
    history(to) = history(from);
    check(to);
    ++files_;
  }

  /// Into a cache made for it, which goes on in place of this one.
  void all_to_file() {
    std::stringstream file;
    cache_.save(file);
    Cache other(cache_.shape(), cache_.config(), sequences);
    other.load(file);
    std::ostringstream again;
    other.save(again);
    expect(again.str() == file.str(), "what was loaded is saved as other bytes");
    cache_ = std::move(other);
    for (Index sequence = 0; sequence < sequences; ++sequence) check(sequence);
    ++files_;
  }

  void check(Index sequence) {
    try {
      checker_.check(cache_, sequence, history(sequence));
    } catch (const std::exception& error) {
      expect(false, "after ", decoded_, " tokens, sequence ", sequence, ": ", error.what());
    }
  }

  void report() const {
    Index cached = 0;
    for (const History& one : histories_) cached += one.size();
    const MemoryUsage memory = cache_.memory();
    std::printf("%10td %8td %6td %6td %6td %8td %10td %8td %8td KiB %9.3f %7.3f %7.3f\n", decoded_,
                prompted_, forks_, truncations_, files_, checker_.checks(), checker_.tokens(),
                cached, memory.total() / 1024, checker_.worst_attention(), checker_.key_error(),
                checker_.value_error());
    std::fflush(stdout);
  }

  static CallOptions of(Index sequence) {
    CallOptions options;
    options.sequence = sequence;
    return options;
  }
  Index below(Index end) { return static_cast<Index>(random_() % static_cast<std::uint64_t>(end)); }
  History& history(Index sequence) { return histories_[static_cast<std::size_t>(sequence)]; }

  Cache cache_;
  std::vector<History> histories_;
  std::mt19937_64 random_;
  Checker<Scalar> checker_;
  Index decoded_ = 0, prompted_ = 0, forks_ = 0, truncations_ = 0, files_ = 0;
};

/// Twice the same: what threads, streams and the allocator keep is there after the first time.
template <class Scalar>
void soak(const char* name, const Config& config, Index tokens, std::uint64_t seed) {
  std::printf(
      "%s\n   decoded prompted  forks   cuts  files   checks of tokens   cached       memory "
      "attention   keys  values\n",
      name);
  Soak<Scalar>(config, seed).run(tokens, 10);
  const Index before = testing::allocated_bytes();
  Soak<Scalar>(config, seed).run(tokens, 0);
  const Index after = testing::allocated_bytes();
  std::printf("allocated afterwards: %td bytes; after the same once more: %td\n\n", before, after);
  constexpr Index kept_by_allocator = 1 << 16;  // glibc keeps some small pieces of a thread
  expect(after <= before + kept_by_allocator, after - before, " bytes have not come back");
}

}  // namespace
}  // namespace squat::soak

int main(int argc, char** argv) try {
  using namespace squat;
  const Index tokens = argc > 1 ? std::atol(argv[1]) : 200000;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  require(tokens >= 100, "TOKENS is ", tokens, "; it must be at least 100");
  Config own_subspaces;
  own_subspaces.quant_group_size = 4;
  own_subspaces.shared_svd = false;
  own_subspaces.arithmetic = Arithmetic::dequantized;
  soak::soak<float>("Config::recommended(), float", Config::recommended(), tokens, seed);
  soak::soak<Eigen::half>("Config{}, a subspace each, exact arithmetic, half", own_subspaces,
                          tokens, seed);
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
