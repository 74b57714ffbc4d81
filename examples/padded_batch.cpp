// A batch of prompts of different length, padded on the left to the longest: CallOptions::mask
// leaves the padding out, whatever it holds.
#include <cstdio>
#include <limits>

#include "noise.hpp"

int main() {
  const squat::ModelShape shape{/*layers=*/1, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  const squat::Config config = squat::Config::recommended(2.5);
  const std::vector<squat::Index> lengths = {256, 171, 100};
  const squat::Index longest = lengths[0], sequences = 3;
  squat::SQuatCache<float, 2> padded(shape, config, sequences), plain(shape, config, sequences);
  bool is_clean = true;
  float difference = 0;
  for (squat::Index sequence = 0; sequence < sequences; ++sequence) {
    const squat::Index length = lengths[static_cast<std::size_t>(sequence)];
    const squat::Index padding = longest - length;
    noise::Tokens batch = noise::tokens(shape, longest, static_cast<unsigned>(sequence));
    for (squat::Matrix<float>* states : {&batch.queries, &batch.keys, &batch.values})
      states->topRows(padding).setConstant(std::numeric_limits<float>::quiet_NaN());
    std::vector<std::uint8_t> valid(static_cast<std::size_t>(padding), 0);
    valid.resize(static_cast<std::size_t>(longest), 1);

    squat::CallOptions options;
    options.sequence = sequence;
    squat::Matrix<float> expected(length, batch.queries.cols()), out(longest, expected.cols());
    plain.attention(0, squat::Queries(batch.queries.bottomRows(length)),
                    squat::Keys(batch.keys.bottomRows(length)),
                    squat::Values(batch.values.bottomRows(length)), expected, options);
    options.mask = valid;
    padded.attention(0, squat::Queries(batch.queries), squat::Keys(batch.keys),
                     squat::Values(batch.values), out, options);
    is_clean = is_clean && out.allFinite() && (out.topRows(padding).array() == 0).all();
    difference = std::max(difference, (out.bottomRows(length) - expected).cwiseAbs().maxCoeff());
  }
  std::printf(
      "prompts of 256, 171 and 100 tokens, padded with NaN: the outputs differ from those "
      "without padding by %.1e at most\n",
      static_cast<double>(difference));
  return is_clean && difference < 1e-5F ? 0 : 1;
}
