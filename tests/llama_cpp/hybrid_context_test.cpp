// A context of a model with recurrent layers on a SQuat cache: what a sequence with a state can do.
#include "sessions.hpp"

namespace squat::testing {
namespace {

class HybridContext : public ::testing::TestWithParam<const char*> {
 protected:
  static TinyModel description() {
    TinyModel model;
    model.architecture = GetParam();
    return model;
  }
  static constexpr double tolerance = 1e-3;  // relative; both round keys and values to 16 bits

  llama_model_ptr model_ = tiny_model(description());
  OwnSession own_{model_.get(), squat_params()};
  SquatSession session_{model_.get(), squat_params(), exact_config()};
  llama_cpp::Sequences& sequences_ = session_.own().sequences();
};

TEST_P(HybridContext, DoesNotGoBack) {
  session_.decode({{0, some_tokens(40)}});
  EXPECT_FALSE(sequences_.remove(0, 39, -1));
  EXPECT_FALSE(sequences_.remove(0, 1, -1));
  EXPECT_TRUE(sequences_.remove(0, 40, -1));
  EXPECT_EQ(sequences_.size(0), 40);
  EXPECT_EQ(sequences_.min_position(0), 39);
  EXPECT_EQ(sequences_.max_position(0), 39);
  EXPECT_EQ(llama_memory_seq_pos_max(session_.own().memory(), 0), 39);
  EXPECT_FALSE(sequences_.can_shift());
  EXPECT_THROW(sequences_.shift(0, 20, -1, 5), Error);
  EXPECT_THROW(sequences_.copy(0, 1, 0, 20), Error);
  own_.decode({{0, some_tokens(40)}});
  EXPECT_LT(difference(own_.decode({{0, {7}}}), session_.decode({{0, {7}}})), tolerance);
}

TEST_P(HybridContext, BeginsAnewWithoutTheStateOfWhatWasRemoved) {
  const Rows first = session_.decode({{0, some_tokens(40)}});
  session_.decode({{1, {5, 6, 7}}, {0, {9}}});
  ASSERT_TRUE(session_.cut(0, 0));
  EXPECT_LT(difference(first, session_.decode({{0, some_tokens(40)}})), 1e-5);
  session_.own().clear();
  EXPECT_EQ(sequences_.size(1), 0);
}

/// Sequences of different lengths, in any order; more than one graph takes.
const std::vector<std::vector<Piece>> mixed_batches = {
    {{2, some_tokens(30)}, {0, {7, 8}}, {1, some_tokens(9)}, {0, some_tokens(20)}, {2, {4}}},
    {{1, {4}}, {2, {5}}, {0, {6}}},
    {{0, {4, 5, 6}}, {1, some_tokens(40)}}};

TEST_P(HybridContext, TakesTheTokensOfABatchInLlamaCppsOrder) {
  for (const std::vector<Piece>& batch : mixed_batches)
    EXPECT_LT(difference(own_.decode(batch), session_.decode(batch)), tolerance);
}

TEST_P(HybridContext, TakesNoTokensOfSeveralSequences) {
  session_.decode({{0, {5}}});
  EXPECT_THROW(session_.decode({{1, {5}, {2}}}), Error);
  EXPECT_EQ(sequences_.size(0), 1);
}

// Where every token is an output, graphs have one sequence each.
TEST_P(HybridContext, GivesEmbeddings) {
  const auto embeddings = [&](Session& session, const std::vector<Piece>& batch) {
    Rows rows(session.decode(batch).size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float* row = llama_get_embeddings_ith(session.context(), static_cast<std::int32_t>(i));
      rows[i].assign(row, row + llama_model_n_embd(model_.get()));
    }
    return rows;
  };
  llama_set_embeddings(own_.context(), true);
  llama_set_embeddings(session_.context(), true);
  session_.own().set_embeddings(true);
  for (const std::vector<Piece>& batch : mixed_batches)
    EXPECT_LT(difference(embeddings(own_, batch), embeddings(session_, batch)), tolerance);
}

TEST_P(HybridContext, GoesBackToSavedStates) {
  session_.decode({{0, some_tokens(40)}, {1, {5}}});
  std::ostringstream saved;
  sequences_.save_states(saved, 0);
  EXPECT_LT(saved.str().size(), session_.save(0).size());
  const Rows wanted = session_.decode({{0, {7, 8, 9}}});
  session_.decode({{0, {4}}, {1, {6}}});
  std::istringstream in(saved.str());
  sequences_.load_states(in, 0);
  EXPECT_EQ(sequences_.size(0), 40);
  ASSERT_TRUE(session_.cut(0, 40));
  EXPECT_LT(difference(wanted, session_.decode({{0, {7, 8, 9}}})), 1e-5);
  // The states of a longer text.
  ASSERT_TRUE(session_.cut(0, 0));
  session_.decode({{0, some_tokens(39)}});
  in = std::istringstream(saved.str());
  EXPECT_THROW(sequences_.load_states(in, 0), Error);
  EXPECT_EQ(sequences_.size(0), 39);
}

TEST_P(HybridContext, SavesAndLoadsAllSequences) {
  session_.decode({{0, some_tokens(40)}, {2, {5, 6}}});
  std::ostringstream saved;
  sequences_.save(saved);
  const Rows wanted = session_.decode({{0, {7}}, {2, {8}}});
  SquatSession other(model_.get(), squat_params(), exact_config());
  other.decode({{1, {5, 6}}, {0, {9}}});
  std::istringstream in(saved.str());
  other.own().sequences().load(in);
  EXPECT_EQ(other.own().sequences().size(1), 0);
  ASSERT_EQ(other.own().sequences().size(0), 40);
  session_.own().clear();
  in = std::istringstream(saved.str());
  sequences_.load(in);
  for (const llama_seq_id sequence : {0, 2}) {
    session_.restore(session_.save(sequence), sequence,
                     static_cast<llama_pos>(sequences_.size(sequence)));
    EXPECT_EQ(sequences_.size(sequence), sequence == 0 ? 40 : 2);
  }
  EXPECT_LT(difference(wanted, session_.decode({{0, {7}}, {2, {8}}})), 1e-5);
}

TEST_P(HybridContext, LoadsNoDamagedStates) {
  session_.decode({{0, some_tokens(40)}, {1, {5}}});
  std::ostringstream saved;
  sequences_.save_states(saved, 0);
  std::string state = saved.str();
  state[state.size() / 2] = static_cast<char>(state[state.size() / 2] ^ 1);
  std::istringstream in(state);
  EXPECT_THROW(sequences_.load_states(in, 0), Error);
  EXPECT_EQ(sequences_.size(0), 0);
  EXPECT_THROW(session_.restore(session_.save(1).substr(0, 200), 2, 1), Error);
  EXPECT_EQ(sequences_.size(2), 0);
  EXPECT_EQ(sequences_.size(1), 1);
}

TEST_P(HybridContext, EmptiesTheSequencesOfABatchThatStops) {
  const Rows first = session_.decode({{0, some_tokens(40)}, {1, {5, 6}}});
  session_.own().set_abort_callback([](void*) { return true; }, nullptr);
  std::vector<llama_token> more = {7, 8};
  EXPECT_THROW(session_.own().decode(llama_batch_get_one(more.data(), 2)), Error);
  session_.own().set_abort_callback(nullptr, nullptr);
  EXPECT_EQ(sequences_.size(0), 0);
  EXPECT_EQ(sequences_.size(1), 2);
  SquatSession fresh(model_.get(), squat_params(), exact_config());
  fresh.decode({{1, {5, 6}}});
  EXPECT_LT(difference(fresh.decode({{1, {9}}}), session_.decode({{1, {9}}})), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Models, HybridContext,
                         ::testing::Values("jamba", "granitehybrid", "lfm2", "qwen35"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace squat::testing
