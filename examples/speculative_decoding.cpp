// Speculative decoding: several tokens are appended and checked in one call, and truncate() takes
// back those that the model rejects. The cache is then as if they had never come.
#include <cstdio>

#include "noise.hpp"

int main() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  const squat::Config config = squat::Config::recommended(2.5);
  squat::SQuatCache<float, 2> cache(shape, config), plain(shape, config);
  constexpr squat::Index prompt_tokens = 200, end = 600, ahead = 4;
  const noise::Tokens text = noise::tokens(shape, end + ahead, 1);  // what the model would write
  const noise::Tokens prompt = text.rows(0, prompt_tokens);
  squat::Matrix<float> out(prompt_tokens, text.queries.cols());
  cache.attention(0, squat::Queries(prompt.queries), squat::Keys(prompt.keys),
                  squat::Values(prompt.values), out);
  plain.attention(0, squat::Queries(prompt.queries), squat::Keys(prompt.keys),
                  squat::Values(prompt.values), out);

  std::mt19937 generator(2);
  squat::Index size = prompt_tokens, calls = 0;
  for (; size < end; ++calls) {
    // The first token is the model's own, the others are guesses that go wrong at some point.
    const auto right = 1 + static_cast<squat::Index>(generator() % ahead);
    noise::Tokens draft = text.rows(size, ahead);
    for (squat::Matrix<float>* states : {&draft.queries, &draft.keys, &draft.values})
      states->bottomRows(ahead - right).setOnes();
    out.resize(ahead, out.cols());
    cache.update(0, squat::Queries(draft.queries), squat::Keys(draft.keys),
                 squat::Values(draft.values));
    cache.attend(0, draft.queries, out);  // lets the model tell what is right
    cache.truncate(size + right);
    cache.flush(0);  // not before: what goes must not share a block with what stays
    size += right;
  }
  out.resize(1, out.cols());
  for (squat::Index i = prompt_tokens; i < size; ++i) {
    const noise::Tokens next = text.rows(i, 1);
    plain.attention(0, squat::Queries(next.queries), squat::Keys(next.keys),
                    squat::Values(next.values), out);
  }
  const bool same = cache.keys(0) == plain.keys(0) && cache.values(0) == plain.values(0);
  std::printf(
      "%td tokens in %td calls, %td more taken back; keys and values %s those of plain "
      "decoding\n",
      size - prompt_tokens, calls, prompt_tokens + calls * ahead - size, same ? "are" : "are not");
  return same ? 0 : 1;
}
