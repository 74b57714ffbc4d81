// Embeddings of images between texts, in a context on a SQuat cache.
#include "../expect_error.hpp"
#include "sessions.hpp"

namespace squat::testing {
namespace {

/// Images whose tokens see one another where `is_causal` does not say otherwise: of one sequence
/// and of several, longer than the windows of the models, one behind the other, forked.
Rows serve_images(Session& session, bool is_causal) {
  const std::vector<llama_token> text = some_tokens(300);
  Rows rows;
  const auto take = [&](Rows&& more) {
    for (std::vector<float>& row : more) rows.push_back(std::move(row));
  };
  const auto show = [&](const std::vector<Image>& images) {
    session.set_causal(is_causal);
    take(session.show(images));
    session.set_causal(true);
  };
  take(session.decode({{0, part(text, 0, 20)}, {1, part(text, 20, 70)}}));
  show({{0, 5, 9}});
  take(session.decode({{0, part(text, 70, 90)}, {1, {5}}}));
  show({{1, 4, 5}, {0, 3, 7}, {2, 5, 3}});
  show({{1, 1, 1}, {0, 4, 4}});
  for (llama_token token = 20; token < 25; ++token)
    take(session.decode({{0, {token}}, {1, {token + 1}}, {2, {token + 2}}}));
  if (llama_model_is_hybrid(llama_get_model(session.context()))) return rows;
  EXPECT_TRUE(session.cut(1, session.size(1) - 2));
  session.fork(0, 2);
  show({{2, 2, 9}, {1, 6, 2}});
  take(session.decode({{2, part(text, 90, 100)}, {0, {40}}, {1, {41, 42}}}));
  return rows;
}

llama_context_params with_room(llama_context_params params) {
  params.n_ubatch = params.n_batch;
  return params;
}

class Images : public ::testing::TestWithParam<TinyModel> {
 protected:
  double error_of(const Config& config, bool is_causal, int threads = 1) {
    OwnSession own(model_.get(), with_room(server_params()));
    SquatSession session(model_.get(), with_room(squat_params(threads)), config);
    return difference(serve_images(own, is_causal), serve_images(session, is_causal));
  }

  llama_model_ptr model_ = tiny_model(GetParam());
};

TEST_P(Images, WhoseTokensSeeOneAnotherHaveTheLogitsOfLlamaCpp) {
  const double error = error_of(exact_config(), false);
  EXPECT_LT(error, 1e-3);
  EXPECT_EQ(error, error_of(exact_config(), false, 3)) << "on three threads";
  Config config = Config::recommended(8);
  config.shared_svd = false;
  EXPECT_LT(error_of(config, false), 2e-2);
}

TEST_P(Images, ThatAreCausalHaveTheLogitsOfLlamaCpp) {
  EXPECT_LT(error_of(exact_config(), true), 1e-3);
}

TEST_P(Images, AreNotCausal) {
  OwnSession own(model_.get(), with_room(server_params()));
  SquatSession session(model_.get(), with_room(squat_params()), exact_config());
  const Rows causal = serve_images(own, true);
  EXPECT_GT(difference(causal, serve_images(session, false)), 1e-2);
}

std::vector<TinyModel> models_with_images() {
  return tiny_models({"llama", "gemma2", "gemma3", "gemma4", "llama4", "gpt-oss", "deepseek2",
                      "bloom", "lfm2", "qwen2vl", "qwen3vl", "qwen35"});
}

INSTANTIATE_TEST_SUITE_P(Models, Images, ::testing::ValuesIn(models_with_images()),
                         [](const auto& info) {
                           std::string name = info.param.architecture;
                           name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
                           return name;
                         });

TEST(Image, MustFitOneGraph) {
  const llama_model_ptr model = tiny_model(TinyModel());
  SquatSession session(model.get(), squat_params(), exact_config());
  session.decode({{0, some_tokens(20)}});
  session.set_causal(false);
  EXPECT_ERROR(session.show({{0, 3, 11}}),
               "has 33 tokens; while attention is not causal it must have at most n_ubatch, 32");
  EXPECT_EQ(session.own().sequences().size(0), 20);
}

}  // namespace
}  // namespace squat::testing
