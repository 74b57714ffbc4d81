// Eviction by score (H2O, SnapKV): attend() tells how much attention each token got, and erase()
// takes out those that got least. What stays keeps its position and its codes. The states are those
// of layer 20 of SmolLM2-135M.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <vector>

#include "quickstart/layer_states.hpp"

int main() {
  using squat::Index;
  const quickstart::LayerStates text = quickstart::read_layer20(SQUAT_EXAMPLES_DIR "/data");
  squat::SQuatCache<float, 2> cache(text.shape, squat::Config::recommended(3));
  constexpr Index tokens = 1024, voters = 32, budget = 256;
  squat::Matrix<float> out(tokens, text.queries.cols());
  cache.attention(0, squat::Queries(text.queries.topRows(tokens)),
                  squat::Keys(text.keys.topRows(tokens)),
                  squat::Values(text.values.topRows(tokens)), out);

  // The newest queries vote, as in SnapKV.
  squat::Matrix<float> received(text.shape.kv_heads, tokens);
  squat::CallOptions options;
  options.received = received.data();
  out.resize(voters, out.cols());
  cache.attend(0, text.queries.middleRows(tokens - voters, voters), out, options);
  const Eigen::RowVectorXf score = received.colwise().sum();
  std::vector<Index> order(tokens - voters);
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(), [&](Index a, Index b) { return score[a] > score[b]; });

  // The next token sees all, then what is left of it.
  const auto attend_next = [&](const squat::CallOptions& next) {
    squat::Matrix<float> result(1, out.cols());
    cache.attend(0, text.queries.middleRows(tokens, 1), result, next);
    return result;
  };
  squat::CallOptions next;
  next.position = tokens;
  const squat::Matrix<float> before = attend_next(next);
  double lost = 0;
  for (std::size_t i = budget - voters; i < order.size(); ++i) {
    lost += static_cast<double>(score[order[i]]);
    cache.erase({order[i], order[i] + 1});
  }
  const squat::Matrix<float> after = attend_next(next);
  const double change = static_cast<double>((after - before).norm() / before.norm());
  std::printf(
      "%td of %td tokens stay, which had %.0f %% of the attention of the newest %td\n"
      "the output of the next token changes by %.1f %%\n",
      budget, tokens, 100 * (1 - lost / static_cast<double>(score.sum())), voters, 100 * change);
  return change > 0 && change < 0.5 ? 0 : 1;
}
