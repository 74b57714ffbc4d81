// Pooled embeddings and scores of a classifier from a context on a SQuat cache.
#include "sessions.hpp"

namespace squat::testing {
namespace {

TEST(Embeddings, OfSequencesAreThoseOfLlamaCpp) {
  TinyModel description;
  description.architecture = "qwen3";
  description.labels = 2;
  const llama_model_ptr model = tiny_model(description);
  const std::vector<llama_token> text = some_tokens(200);
  for (const auto& [pooling, width] :
       {std::pair{LLAMA_POOLING_TYPE_LAST, llama_model_n_embd(model.get())},
        std::pair{LLAMA_POOLING_TYPE_CLS, llama_model_n_embd(model.get())},
        std::pair{LLAMA_POOLING_TYPE_MEAN, llama_model_n_embd(model.get())},
        std::pair{LLAMA_POOLING_TYPE_RANK, description.labels}}) {
    llama_context_params own_params = server_params(), params = squat_params();
    for (llama_context_params* one : {&own_params, &params}) {
      one->embeddings = true;
      one->pooling_type = pooling;
      one->n_ubatch = one->n_batch;
    }
    OwnSession own(model.get(), own_params);
    SquatSession session(model.get(), params, exact_config());
    const auto embeddings = [&, width = width](Session& one) {
      one.decode({{0, part(text, 0, 80)}});
      one.decode({{1, part(text, 100, 140)}, {0, part(text, 80, 96)}, {2, part(text, 150, 170)}});
      Rows rows;
      for (const llama_seq_id sequence : {0, 1, 2}) {
        const float* row = llama_get_embeddings_seq(one.context(), sequence);
        rows.emplace_back(row, row + width);
      }
      return rows;
    };
    const Rows expected = embeddings(own);
    EXPECT_GT(difference({expected[0]}, {expected[1]}), 1e-2) << pooling;
    EXPECT_LT(difference(expected, embeddings(session)), 1e-3) << pooling;
  }
}

}  // namespace
}  // namespace squat::testing
