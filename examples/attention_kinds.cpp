// Attention of other kinds than plain causal one: what a model asks of each layer, and what a call
// may say of its own tokens.
#include <cstdio>
#include <vector>

#include "noise.hpp"

int main() {
  using squat::Index;
  squat::ModelShape shape{/*layers=*/4, /*query_heads=*/4, /*kv_heads=*/2, /*head_dim=*/64};
  shape.by_layer.assign(4, shape);
  shape.by_layer[0].softcap = 50;  // Gemma 2: scores are capped, and a window hides old tokens
  shape.by_layer[0].window = 128;
  shape.by_layer[1].sink_logits = {0.5, -1, 2, 0};  // gpt-oss: a logit per head, without a value
  shape.by_layer[2].alibi_slopes = {0.5, 0.25, 0.125, 0.0625};  // BLOOM: far tokens count less
  shape.by_layer[3].kv_layer = 1;  // Gemma 3n: reads what layer 1 holds
  squat::Config config = squat::Config::recommended(3);
  config.arithmetic = squat::Arithmetic::dequantized;  // so that the comparison below is exact
  squat::SQuatCache<float, 2> cache(shape, config);

  // A text of 300 tokens. Tokens 100 to 149 are an image, and see one another.
  const Index tokens = 300, image_begin = 100, image_end = 150;
  std::vector<squat::TokenRange> visible;
  for (Index row = 0; row < tokens; ++row)
    visible.push_back({0, row >= image_begin && row < image_end ? image_end : row + 1});
  squat::Matrix<float> out(tokens, shape.query_heads * shape.head_dim);
  for (Index layer = 0; layer < shape.layers; ++layer) {
    const noise::Tokens text = noise::tokens(shape, tokens, static_cast<unsigned>(layer));
    squat::CallOptions options;
    if (shape.layer(layer).window == 0) options.visible = visible;  // else the window decides
    if (shape.layer(layer).kv_layer == -1)
      cache.attention(layer, squat::Queries(text.queries), squat::Keys(text.keys),
                      squat::Values(text.values), out, options);
    else
      cache.attend(layer, text.queries, out, options);
    std::printf("layer %td: first and last output %6.3f and %6.3f, holds tokens %td to %td\n",
                layer, out(0, 0), out(tokens - 1, 0), cache.first(layer), cache.size(layer));
  }

  // Four drafts in two branches: tokens 0 and 1 follow the text, 2 follows 0, 3 follows 1.
  const std::vector<std::uint8_t> tree = {1, 0, 0, 0,  //
                                          0, 1, 0, 0,  //
                                          1, 0, 1, 0,  //
                                          0, 1, 0, 1};
  squat::CallOptions options;
  options.tree = squat::TreeMask(tree.data(), 4, 4);
  const noise::Tokens drafts = noise::tokens(shape, 4, 9);
  squat::Matrix<float> of_tree(4, out.cols()), of_branch(2, out.cols());
  cache.update(1, squat::Queries(drafts.queries), squat::Keys(drafts.keys),
               squat::Values(drafts.values));
  cache.attend(1, drafts.queries, of_tree, options);
  cache.truncate(tokens, {});  // the branch of tokens 1 and 3 alone, for comparison
  noise::Tokens branch = drafts.rows(0, 2);
  branch.queries << drafts.queries.row(1), drafts.queries.row(3);
  branch.keys << drafts.keys.row(1), drafts.keys.row(3);
  branch.values << drafts.values.row(1), drafts.values.row(3);
  cache.update(1, squat::Queries(branch.queries), squat::Keys(branch.keys),
               squat::Values(branch.values));
  cache.attend(1, branch.queries, of_branch);
  const float difference = (of_tree.row(3) - of_branch.row(1)).norm() / of_branch.row(1).norm();
  std::printf("a token in a tree and alone on its branch: %.1e apart\n", difference);
  return difference < 1e-4f ? 0 : 1;
}
