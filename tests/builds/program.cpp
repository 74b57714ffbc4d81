// A prompt of 300 tokens and 50 decoded ones in several configurations, saved, loaded and forked.
// Usage: program [DIRECTORY [OTHER]]
//
// Prints a line for every configuration: its name, a hash of what is saved, which is the same
// in every build, and some numbers of attention's output. Leaves what is saved in DIRECTORY, and
// loads what another build left in OTHER.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

// Names that other headers define as macros.
#if defined(SQUAT_TEST_MACROS)
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define near
#define far
#define small char
#define I _Complex_I
#endif
#include <squat/squat.hpp>
#include <squat/thread_executor.hpp>

namespace {

using squat::Index;
using Rows = squat::Matrix<float>;

constexpr Index prompt = 300, decoded = 50;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

/// Numbers that no compiler rounds: integers times powers of two.
class Draw {
 public:
  explicit Draw(std::uint32_t seed) : state_(seed) {}

  /// Nearly normal, of deviation 1.
  float operator()() {
    std::int32_t sum = 0;
    for (int i = 0; i < 12; ++i) {
      state_ = state_ * 1664525u + 1013904223u;
      sum += static_cast<std::int32_t>(state_ >> 20);
    }
    return static_cast<float>(sum - 6 * 4095) * 0x1p-12f;
  }

 private:
  std::uint32_t state_;
};

/// Rows that lie around a mean, mostly in a few directions.
Rows draw(Index rows, Index columns, std::uint32_t seed) {
  constexpr Index directions = 4;
  Draw draw(seed);
  Rows signs(directions, columns), x(rows, columns);
  for (Index i = 0; i < signs.size(); ++i) signs.data()[i] = draw() > 0 ? 1.0f : -1.0f;
  for (Index row = 0; row < rows; ++row) {
    float weights[directions];
    for (float& weight : weights) weight = draw();
    for (Index c = 0; c < columns; ++c) {
      float sum = draw() * 0.5f + (c % 11 == 0 ? 2.0f : 0.0f);
      for (Index i = 0; i < directions; ++i) sum += weights[i] * signs(i, c) / float(1 << i);
      x(row, c) = sum;
    }
  }
  return x;
}

std::uint64_t hash(const std::string& bytes) {  // FNV-1a
  std::uint64_t sum = 14695981039346656037u;
  for (const char byte : bytes)
    sum = (sum ^ static_cast<unsigned char>(byte)) * std::uint64_t{1099511628211u};
  return sum;
}

double largest_difference(const Rows& a, const Rows& b) {
  double largest = 0;
  for (Index i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double(a.data()[i]) - double(b.data()[i]));
    largest = difference > largest ? difference : largest;
  }
  return largest;
}

void run(const std::string& name, Index head_dim, const squat::Config& config,
         const char* directory, const char* other) {
  using Cache = squat::SQuatCache<float, 2>;
  const squat::ModelShape shape{1, 4, 2, head_dim};
  Cache cache(shape, config, 2);
  const Rows queries = draw(prompt + decoded, 4 * head_dim, 1);
  const Rows keys = draw(prompt + decoded, 2 * head_dim, 2);
  const Rows values = draw(prompt + decoded, 2 * head_dim, 3);
  Rows out(1, 4 * head_dim);
  for (Index first = 0; first < prompt + decoded;) {
    const Index tokens = first == 0 ? prompt : 1;
    Rows outputs(tokens, 4 * head_dim);
    cache.attention(0, squat::Queries(queries.middleRows(first, tokens)),
                    squat::Keys(keys.middleRows(first, tokens)),
                    squat::Values(values.middleRows(first, tokens)), outputs);
    first += tokens;
    out = outputs.bottomRows(1);
  }
  const Rows last = queries.bottomRows(1);
  cache.attend(0, last, out);
  expect(largest_difference(out, Rows::Zero(1, 4 * head_dim)) < 100, name + ": not finite");

  std::ostringstream saved;
  cache.save(saved, 0);
  const auto expect_like_saved = [&](const std::string& what, const std::string& file,
                                     double within) {
    Cache loaded(shape, config);
    std::istringstream in(file);
    loaded.load(in, 0);
    Rows again(1, 4 * head_dim);
    loaded.attend(0, last, again);
    expect(largest_difference(out, again) <= within, name + ": other output " + what);
  };
  expect_like_saved("when loaded", saved.str(), 0);
  cache.fork(0, 1);
  squat::CallOptions second;
  second.sequence = 1;
  Rows forked(1, 4 * head_dim);
  cache.attend(0, last, forked, second);
  expect(largest_difference(out, forked) == 0, name + ": other output of a fork");

  if (directory != nullptr)
    std::ofstream(std::string(directory) + "/" + name, std::ios::binary) << saved.str();
  if (other != nullptr) {
    std::ifstream in(std::string(other) + "/" + name, std::ios::binary);
    std::ostringstream file;
    file << in.rdbuf();
    expect_like_saved("of another build's file", file.str(), 0.01);
  }
  std::printf("%s %016llx", name.c_str(), static_cast<unsigned long long>(hash(saved.str())));
  for (Index i = 0; i < 8; ++i) std::printf(" %.4f", double(out(0, i * head_dim / 2)));
  std::printf("\n");
}

}  // namespace

int main(int arguments, char** argument) {
  const char* const directory = arguments > 1 ? argument[1] : nullptr;
  const char* const other = arguments > 2 ? argument[2] : nullptr;
  for (const Index head_dim : {64, 128}) {
    const std::string end = "_" + std::to_string(head_dim);
    run("published" + end, head_dim, {}, directory, other);
    run("recommended_2.25" + end, head_dim, squat::Config::recommended(2.25), directory, other);
    run("recommended_2.5" + end, head_dim, squat::Config::recommended(2.5), directory, other);
    run("recommended_3.75" + end, head_dim, squat::Config::recommended(3.75), directory, other);
    squat::Config tokens;
    tokens.key_scales = squat::KeyScales::per_token;
    tokens.rotate_keys = tokens.rotate_values = true;
    tokens.residual_length = 0;
    tokens.scale_bits = 32;
    tokens.quant_group_size = 8;
    tokens.query_decay = 0.999;
    tokens.subspace_method = squat::SubspaceMethod::power;
    run("per_token" + end, head_dim, tokens, directory, other);
  }
  return 0;
}
