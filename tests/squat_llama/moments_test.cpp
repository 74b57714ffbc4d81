// Query moments that a model gives, against the queries that are captured from it.
#include "moments.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "attention_states.hpp"
#include "test_model.hpp"

namespace squat_llama {
namespace {

TEST(Moments, AreThoseOfTheQueriesOfEachLayer) {
  squat::testing::TinyModel description;
  description.architecture = "gemma4";  // layers of two widths
  const Model model = test::tiny(description);
  const std::vector<Token> tokens = squat::testing::some_tokens(50);
  squat::QueryMoments moments = empty_moments(model);
  add_moments(model, tokens, moments);
  const squat::ModelShape& shape = moments.shape();
  int layers = 0;
  for_each_layer(model, tokens, [&](int layer, const LayerStates& states) {
    const squat::LayerShape& one = shape.layer(layer);
    ASSERT_EQ(states.queries.cols(), one.query_heads * one.head_dim);
    ASSERT_EQ(states.keys.cols(), one.kv_heads * one.head_dim);
    for (squat::Index kv_head = 0; kv_head < one.kv_heads; ++kv_head) {
      Eigen::MatrixXd sum = Eigen::MatrixXd::Zero(one.head_dim, one.head_dim);
      for (squat::Index head = kv_head * one.heads_per_kv();
           head < (kv_head + 1) * one.heads_per_kv(); ++head) {
        const Eigen::MatrixXd queries =
            states.queries.middleCols(head * one.head_dim, one.head_dim).cast<double>();
        sum += queries.transpose() * queries;
      }
      const auto& moment = moments.moment(layer, kv_head);
      EXPECT_EQ(moment.count(), 50 * one.heads_per_kv());
      EXPECT_LT((moment.sum() - sum).norm(), 1e-5 * sum.norm()) << layer;
    }
    ++layers;
  });
  EXPECT_EQ(layers, shape.layers);
}

}  // namespace
}  // namespace squat_llama
