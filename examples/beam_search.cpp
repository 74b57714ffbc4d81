// Beam search: fork() copies a beam without copying what is quantized, so that a prompt that beams
// have in common takes its memory once.
#include <cstdio>

#include "noise.hpp"

int main() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  const squat::Config config = squat::Config::recommended(2.5);
  constexpr squat::Index beams = 4;
  squat::SQuatCache<float, 2> cache(shape, config, beams), plain(shape, config);
  const noise::Tokens prompt = noise::tokens(shape, 8192, 0);
  for (auto* each : {&cache, &plain}) {
    each->update(0, squat::Queries(prompt.queries), squat::Keys(prompt.keys),
                 squat::Values(prompt.values));
    each->flush(0);
  }
  for (squat::Index beam = 1; beam < beams; ++beam) cache.fork(0, beam);
  const squat::Index one = plain.memory().total(), all = cache.memory().total();

  squat::Matrix<float> out(1, prompt.queries.cols());
  const auto append = [&](auto& to, squat::Index beam, unsigned token) {
    const noise::Tokens states = noise::tokens(shape, 1, token);
    to.attention(0, squat::Queries(states.queries), squat::Keys(states.keys),
                 squat::Values(states.values), out, {beam});
  };
  std::mt19937 generator(1);
  std::vector<unsigned> written[beams];
  for (int step = 1; step <= 300; ++step) {
    for (squat::Index beam = 0; beam < beams; ++beam) {
      written[beam].push_back(static_cast<unsigned>(generator()));
      append(cache, beam, written[beam].back());
    }
    if (step % 10 != 0) continue;
    // A likely beam goes on twice, in place of its neighbour.
    const auto from = static_cast<squat::Index>(generator() % beams), to = (from + 1) % beams;
    cache.fork(from, to);
    written[to] = written[from];
  }
  for (const unsigned token : written[beams - 1]) append(plain, 0, token);
  const bool same = cache.keys(0, {beams - 1}) == plain.keys(0);
  std::printf(
      "a prompt of 8192 tokens takes %td bytes, with 4 beams %td; 300 tokens later a beam's "
      "keys %s those of a cache without forks\n",
      one, all, same ? "are" : "are not");
  return same && all < one + one / 4 ? 0 : 1;
}
