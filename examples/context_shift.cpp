// A context that is full makes room: the first tokens stay, erase() takes out the oldest of the
// others, and shift() moves the rest to where these were. No code is touched.
#include <cmath>
#include <cstdio>

#include "noise.hpp"

int main() {
  squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  // How the caller turns queries and keys before it hands them over: shift() has to know.
  shape.rope.pairing = squat::RopePairing::halves;
  shape.rope.is_applied = true;
  squat::SQuatCache<float, 2> cache(shape, squat::Config::recommended(2.5));
  constexpr squat::Index n_ctx = 512, keep = 4, step = 16;
  squat::Index shifts = 0;
  for (unsigned written = 0; written < 4000; written += step) {
    if (cache.size(0) + step > n_ctx) {
      const squat::Index discard = (cache.size(0) - keep) / 2;
      cache.erase({keep, keep + discard});
      cache.shift({keep + discard, cache.size(0)}, -discard);
      ++shifts;
    }
    const noise::Tokens text = noise::tokens(shape, step, written);
    squat::Matrix<float> out(step, text.queries.cols());
    cache.attention(0, squat::Queries(text.queries), squat::Keys(text.keys),
                    squat::Values(text.values), out);
  }
  // A key that has moved is as far from a query as one that was written there.
  const squat::Matrix<float> before = cache.keys(0);
  cache.erase({keep, keep + 1});
  cache.shift({keep + 1, cache.size(0)}, -1);
  const squat::Matrix<float> after = cache.keys(0);
  double lengths = 0;
  const squat::Index newest = 128;  // at most these are not packed: they are rounded again
  for (squat::Index token = keep; token < after.rows() - newest; ++token)
    lengths = std::max(lengths, std::abs(1.0 - static_cast<double>(after.row(token).norm() /
                                                                   before.row(token + 1).norm())));
  std::printf("4000 tokens through a context of %td: %td shifts, %td tokens held in %td bytes\n",
              n_ctx, shifts, cache.size(0), cache.memory().total());
  return lengths < 1e-5 && cache.size(0) <= n_ctx ? 0 : 1;
}
