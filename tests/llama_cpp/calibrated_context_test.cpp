// A context whose keys go by query moments of other texts.
#include "sessions.hpp"

namespace squat::testing {
namespace {

Config config_with_feedback() {
  Config config;
  config.quant_group_size = 4;
  config.squat_lambda = 1;
  config.shared_svd = false;
  return config;
}

/// Moments that favour some channels, as no prompt does.
QueryMoments some_moments(const ModelShape& shape) {
  QueryMoments moments(shape);
  for (Index layer = 0; layer < shape.layers; ++layer) {
    Matrix<float> queries(8, shape.query_heads * shape.head_dim);
    for (Index i = 0; i < queries.size(); ++i)
      queries.data()[i] = i % 7 == 0 ? 20.0f : static_cast<float>(i % 5) - 2.0f;
    moments.add<float>(layer, queries);
  }
  return moments;
}

TEST(CalibratedContext, KeepsItsMomentsWhenItIsCleared) {
  const llama_model_ptr model = tiny_model({});
  const std::vector<llama_token> text = some_tokens(150);
  const auto read = [&](SquatSession& session) {
    session.decode({{0, part(text, 0, 90)}});
    return session.decode({{0, part(text, 90, 150)}});
  };
  SquatSession fitted(model.get(), squat_params(), config_with_feedback());
  SquatSession calibrated(model.get(), squat_params(), config_with_feedback());
  calibrated.own().calibrate(some_moments(calibrated.own().cache().shape()));
  const Rows first = read(calibrated);
  EXPECT_GT(difference(read(fitted), first), 1e-4);

  SquatSession again(model.get(), squat_params(), config_with_feedback());
  again.own().calibrate(some_moments(again.own().cache().shape()));
  again.decode({{0, part(text, 0, 40)}});
  again.own().clear();
  again.cut(0, 0);
  EXPECT_EQ(read(again), first);
}

TEST(CalibratedContext, RefusesMomentsOfAnotherModel) {
  const llama_model_ptr model = tiny_model({});
  SquatSession session(model.get(), squat_params(), config_with_feedback());
  EXPECT_THROW(session.own().calibrate(some_moments({2, 4, 4, 32})), Error);
  session.decode({{0, some_tokens(10)}});
  EXPECT_THROW(session.own().calibrate(some_moments(session.own().cache().shape())), Error);
}

}  // namespace
}  // namespace squat::testing
