// Positions of several dimensions (M-RoPE) in a context on a SQuat cache: an image takes one.
#include "../expect_error.hpp"
#include "sessions.hpp"

namespace squat::testing {
namespace {

class Planes : public ::testing::Test {
 protected:
  explicit Planes(const std::string& architecture = "qwen2vl")
      : model_(tiny_model(tiny_models({architecture}).front())) {}

  void expect_same_image(const std::vector<llama_pos>& begins);

  /// One batch of embeddings of sequence 0 at these places: positions, then rows, columns and zeros
  /// of `count` tokens.
  llama_batch embeddings(std::vector<llama_pos>& places, std::int32_t count) {
    const auto width = static_cast<std::size_t>(llama_model_n_embd_inp(model_.get()));
    values_.assign(static_cast<std::size_t>(count) * width, 0);
    for (std::size_t i = 0; i < values_.size(); ++i)
      values_[i] = static_cast<float>(std::sin(0.1 * static_cast<double>(i * i % 7919)));
    return {count, nullptr, values_.data(), places.data(), nullptr, nullptr, nullptr};
  }

  void expect_same_ends(llama_seq_id sequence) {
    const llama_memory_t memory = llama_get_memory(own_.context());
    EXPECT_EQ(sequences_.min_position(sequence), llama_memory_seq_pos_min(memory, sequence));
    EXPECT_EQ(sequences_.max_position(sequence), llama_memory_seq_pos_max(memory, sequence));
  }

  llama_model_ptr model_;
  OwnSession own_{model_.get(), server_params()};
  SquatSession session_{model_.get(), squat_params(), exact_config()};
  llama_cpp::Sequences& sequences_ = session_.own().sequences();

 private:
  std::vector<float> values_;
};

TEST_F(Planes, EndWhereThoseOfLlamaCppDo) {
  for (Session* one : {static_cast<Session*>(&own_), static_cast<Session*>(&session_)}) {
    one->decode({{0, some_tokens(20)}});
    one->show({{0, 4, 6}});
  }
  EXPECT_EQ(sequences_.size(0), 44);
  EXPECT_EQ(sequences_.max_position(0), 20);
  expect_same_ends(0);
  expect_same_ends(1);
  for (Session* one : {static_cast<Session*>(&own_), static_cast<Session*>(&session_)})
    one->decode({{0, {5}}});
  EXPECT_EQ(sequences_.max_position(0), 26);
  expect_same_ends(0);
}

TEST_F(Planes, AreRemovedByTheirPosition) {
  for (Session* one : {static_cast<Session*>(&own_), static_cast<Session*>(&session_)}) {
    one->decode({{0, some_tokens(20)}});
    one->show({{0, 4, 6}});
    one->decode({{0, some_tokens(10)}});
    one->fork(0, 1);
    EXPECT_TRUE(one->cut(0, 21));  // behind the image
    EXPECT_TRUE(one->cut(1, 20));
  }
  EXPECT_EQ(sequences_.size(0), 44);
  EXPECT_EQ(sequences_.size(1), 20);
  expect_same_ends(0);
  expect_same_ends(1);
  const std::vector<Piece> next = {{0, some_tokens(5)}, {1, some_tokens(8)}};
  EXPECT_LT(difference(own_.decode(next), session_.decode(next)), 1e-3);
  // The image, out of the middle.
  for (Session* one : {static_cast<Session*>(&own_), static_cast<Session*>(&session_)})
    one->take_out(0, 20, 21);
  expect_same_ends(0);
  EXPECT_LT(difference(own_.decode({{0, {7}}}), session_.decode({{0, {7}}})), 1e-3);
}

/// Places of the tokens [begin, end) of an image of 10 columns at position 20.
std::vector<llama_pos> image_places(llama_pos begin, llama_pos end) {
  std::vector<llama_pos> all;
  for (llama_pos i = begin; i < end; ++i) all.push_back(20);
  for (llama_pos i = begin; i < end; ++i) all.push_back(20 + i / 10);
  for (llama_pos i = begin; i < end; ++i) all.push_back(20 + i % 10);
  for (llama_pos i = begin; i < end; ++i) all.push_back(0);
  return all;
}

/// An image whose tokens come in batches, each of which begins where one of `begins` says.
void Planes::expect_same_image(const std::vector<llama_pos>& begins) {
  const auto take = [&](Session& session, const auto& decode) {
    session.decode({{0, some_tokens(20)}});
    llama_pos count = 0;
    for (std::size_t i = 0; i + 1 < begins.size(); ++i) {
      std::vector<llama_pos> part = image_places(begins[i], begins[i + 1]);
      count = begins[i + 1] - begins[i];
      EXPECT_EQ(decode(embeddings(part, count)), 0);
    }
    const float* row = llama_get_logits_ith(session.context(), count - 1);
    Rows rows{{row, row + TinyModel().vocabulary}};
    std::vector<llama_token> token = {5};
    llama_pos position = 30;
    llama_batch batch = llama_batch_get_one(token.data(), 1);
    batch.pos = &position;
    EXPECT_EQ(decode(batch), 0);
    row = llama_get_logits_ith(session.context(), 0);
    rows.emplace_back(row, row + TinyModel().vocabulary);
    return rows;
  };
  const Rows expected =
      take(own_, [&](const llama_batch& batch) { return llama_decode(own_.context(), batch); });
  const Rows found =
      take(session_, [&](const llama_batch& batch) { return session_.own().decode(batch); });
  EXPECT_LT(difference(expected, found), 1e-3);
  EXPECT_EQ(sequences_.max_position(0), 30);
}

// An image of more tokens than a batch takes: the second part is where the first one was.
TEST_F(Planes, GoOnWithinAnImage) { expect_same_image({0, 40, 60}); }

/// The same beside recurrent layers, which keep the cells of llama.cpp's memory at the last
/// position.
class PlanesAndStates : public Planes {
 protected:
  PlanesAndStates() : Planes("qwen35") {}
};

TEST_F(PlanesAndStates, GoOnWithinAnImage) { expect_same_image({0, 40, 60}); }

TEST_F(PlanesAndStates, GoOnWithinAnImageTokenByToken) { expect_same_image({0, 1, 2, 3, 10, 11}); }

TEST_F(Planes, DoNotGoBack) {
  session_.decode({{0, some_tokens(20)}});
  std::vector<llama_pos> back = {20, 20, 20, 20, 21, 20, 0, 0};  // to the left
  EXPECT_ERROR(session_.own().decode(embeddings(back, 2)),
               "sequence 0 has position 20, row 20, column 20",
               "it must be behind position 20, row 20, column 21");
  back = {19, 19, 19, 0};
  EXPECT_ERROR(session_.own().decode(embeddings(back, 1)),
               "it must be behind position 19, row 19, column 19");
  session_.show({{0, 2, 3}});
  std::vector<llama_token> token = {5};
  llama_pos position = 20;
  llama_batch batch = llama_batch_get_one(token.data(), 1);
  batch.pos = &position;
  EXPECT_ERROR(session_.own().decode(batch), "must be behind position 20, row 21, column 22");
  std::vector<llama_pos> places(4, 30);
  batch = embeddings(places, 1);
  batch.pos = nullptr;
  EXPECT_ERROR(session_.own().decode(batch), "batch.pos is null", "[4, n_tokens]");
  EXPECT_EQ(sequences_.size(0), 26);
  EXPECT_EQ(session_.own().decode(llama_batch_get_one(token.data(), 1)), 0);
  EXPECT_EQ(sequences_.max_position(0), 21);  // as llama.cpp counts on
}

TEST_F(Planes, DoNotMove) {
  session_.decode({{0, some_tokens(20)}});
  EXPECT_FALSE(sequences_.can_shift());
  EXPECT_FALSE(llama_memory_can_shift(llama_get_memory(own_.context())));
  EXPECT_ERROR(sequences_.shift(0, 10, -1, 5), "do not move");
  EXPECT_EQ(sequences_.max_position(0), 19);
}

TEST_F(Planes, AreInStates) {
  session_.decode({{0, some_tokens(20)}, {2, some_tokens(7)}});
  session_.show({{0, 4, 6}, {2, 3, 3}});
  const std::string state = session_.save(0);
  session_.restore(state, 1, 26);
  EXPECT_EQ(sequences_.max_position(1), 20);
  EXPECT_TRUE(session_.cut(1, 20));
  EXPECT_EQ(sequences_.size(1), 20);
  std::string damaged = state;
  damaged[8 + 30 * 24] = static_cast<char>(damaged[8 + 30 * 24] ^ 1);  // a position
  EXPECT_ERROR(session_.restore(damaged, 1, 26), "positions of the state's tokens are damaged");
  EXPECT_ERROR(session_.restore(state.substr(0, 100), 1, 26), "positions of", "are damaged");
  EXPECT_EQ(sequences_.size(1), 20);

  std::stringstream all;
  sequences_.save(all);
  session_.own().clear();
  EXPECT_EQ(sequences_.max_position(2), -1);
  sequences_.load(all);
  EXPECT_EQ(sequences_.max_position(0), 20);
  EXPECT_EQ(sequences_.max_position(2), 7);
  session_.decode({{2, {5}}});
  EXPECT_EQ(sequences_.max_position(2), 10);
}

}  // namespace
}  // namespace squat::testing
