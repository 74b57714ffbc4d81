// A context on a SQuat cache computes what llama.cpp's own does.
#include "sessions.hpp"

namespace squat::testing {
namespace {

/// What a server does: prompts in pieces, of several sequences in a batch, whose rows lie apart in
/// it; decoding of all together; tokens taken back, unless layers are recurrent; a fork; a state
/// saved and restored.
Rows serve(Session& session) {
  const std::vector<llama_token> text = some_tokens(300);
  Rows rows;
  const auto decode = [&](const std::vector<Piece>& pieces) {
    for (std::vector<float>& row : session.decode(pieces)) rows.push_back(std::move(row));
  };
  decode({{0, part(text, 0, 96)}});
  decode({{0, part(text, 96, 120)}, {1, part(text, 200, 260)}});
  decode({{1, {7}}, {0, {8}}, {1, {9}}, {0, {10, 11}}, {2, {12}}});
  for (llama_token token = 20; token < 30; ++token)
    decode({{0, {token}}, {1, {token + 1}}, {2, {token + 2}}});
  EXPECT_NE(session.cut(0, session.size(0) - 5),
            llama_model_is_hybrid(llama_get_model(session.context())));
  decode({{0, part(text, 120, 150)}});
  session.fork(0, 2);
  decode({{2, {40}}, {0, {41}}});
  decode({{2, {42, 43}}, {0, {44}}});
  const std::string state = session.save(1);
  const llama_pos size = session.size(1);
  decode({{1, part(text, 0, 40)}});
  EXPECT_TRUE(session.cut(1, 0));
  decode({{1, part(text, 50, 60)}});
  session.restore(state, 1, size);
  decode({{1, {50}}, {2, {51}}});
  session.restore(state, 0, size);
  decode({{0, part(text, 60, 90)}, {1, {52}}});
  return rows;
}

class ServedModel : public ::testing::TestWithParam<TinyModel> {
 protected:
  /// How far `config` is off from attention in single precision.
  double error_of(const Config& config, int threads = 1) {
    SquatSession session(model_.get(), squat_params(threads), config);
    return difference(expected(), serve(session));
  }
  /// The same for llama.cpp's own cache of a type, with its flash attention.
  double error_of(ggml_type type) {
    llama_context_params params = server_params();
    params.type_k = params.type_v = type;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    OwnSession session(model_.get(), params);
    return difference(expected(), serve(session));
  }

 private:
  Rows expected() {
    OwnSession session(model_.get(), server_params());
    return serve(session);
  }

  llama_model_ptr model_ = tiny_model(GetParam());
};

// The cache takes what llama.cpp has rounded to half precision.
TEST_P(ServedModel, HasTheLogitsOfLlamaCppInFullPrecision) {
  const double error = error_of(exact_config());
  EXPECT_LT(error, 1e-3);
  EXPECT_LT(error, error_of(GGML_TYPE_F16));
  EXPECT_EQ(error, error_of(exact_config(), 3)) << "on three threads";
}

TEST_P(ServedModel, HasNearlyTheLogitsOfLlamaCppAt8Bits) {
  Config config = Config::recommended(8);
  config.shared_svd = false;
  const double error = error_of(config);
  EXPECT_LT(error, 2e-2);
  if (GetParam().head_dim % 32 == 0) {  // others llama.cpp does not quantize
    EXPECT_LT(error, error_of(GGML_TYPE_Q8_0));
  }
}

TEST_P(ServedModel, GivesTheSameOnAnyNumberOfThreads) {
  const llama_model_ptr model = tiny_model(GetParam());
  Config config = Config::recommended(3);
  config.shared_svd = false;
  SquatSession one(model.get(), squat_params(1), config);
  SquatSession three(model.get(), squat_params(3), config);
  const std::vector<llama_token> text = some_tokens(300);
  one.decode({{0, part(text, 0, 90)}});
  three.decode({{0, part(text, 0, 90)}});
  one.decode({{0, part(text, 90, 180)}});
  three.decode({{0, part(text, 90, 180)}});
  EXPECT_EQ(one.save(0), three.save(0));
}

std::vector<TinyModel> served_models() {
  std::vector<TinyModel> models =
      tiny_models({"llama", "qwen2", "qwen3", "gemma2", "gemma3", "gemma4", "cohere2", "llama4",
                   "phi3", "gpt-oss", "deepseek2", "bloom", "jamba", "granitehybrid", "lfm2",
                   "qwen2vl", "qwen3vl", "qwen35"});
  models[0].head_dim = 128;
  models[1].head_dim = 20;
  models[2].head_dim = 100;
  return models;
}

std::string name_of(const ::testing::TestParamInfo<TinyModel>& info) {
  std::string name = info.param.architecture;
  name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, ServedModel, ::testing::ValuesIn(served_models()), name_of);

/// What a server does whose context is full, or that finds parts of a new prompt in an old one.
Rows serve_moved(Session& session) {
  const std::vector<llama_token> text = some_tokens(300);
  Rows rows;
  const auto decode = [&](const std::vector<Piece>& pieces) {
    for (std::vector<float>& row : session.decode(pieces)) rows.push_back(std::move(row));
  };
  decode({{0, part(text, 0, 96)}});
  decode({{0, part(text, 96, 180)}, {1, {5}}});
  session.close_gap(0, 4, 90, 180);
  decode({{0, part(text, 180, 220)}, {1, {6}}});
  session.close_gap(0, 50, 80, session.size(0));
  decode({{0, {7}}});
  session.close_gap(0, 10, 25, 60);
  EXPECT_TRUE(session.cut(0, 45));
  session.fork(0, 2);  // llama.cpp's own sequences would move together
  decode({{0, part(text, 220, 250)}, {2, {8}}});
  const std::string state = session.save(0);
  session.restore(state, 1, session.size(0));
  decode({{1, part(text, 250, 260)}, {2, {9, 10}}});
  return rows;
}

class MovedModel : public ::testing::TestWithParam<TinyModel> {};

TEST_P(MovedModel, HasTheLogitsOfLlamaCppAfterAContextShift) {
  // Where there is an attention factor, llama.cpp's own shift turns keys otherwise than its graph.
  if (GetParam().rotary_scaling == "yarn" || GetParam().architecture == "phi3") GTEST_SKIP();
  const llama_model_ptr model = tiny_model(GetParam());
  OwnSession own(model.get(), server_params());
  SquatSession session(model.get(), squat_params(), exact_config());
  ASSERT_TRUE(llama_memory_can_shift(llama_get_memory(own.context())));
  ASSERT_TRUE(session.own().sequences().can_shift());
  const Rows expected = serve_moved(own);
  EXPECT_LT(difference(expected, serve_moved(session)), 1e-3);
  Config config = Config::recommended(8);
  config.shared_svd = false;
  SquatSession packed(model.get(), squat_params(), config);
  EXPECT_LT(difference(expected, serve_moved(packed)), 2e-2);
}

// The keys of one layer depend on nothing but token and position.
TEST_P(MovedModel, IsInOneLayerAsIfItHadNeverHadTheTokensTakenOut) {
  TinyModel description = GetParam();
  description.layers = 1;
  const llama_model_ptr model = tiny_model(description);
  const std::vector<llama_token> text = some_tokens(90);
  SquatSession session(model.get(), squat_params(), exact_config());
  session.decode({{0, text}});
  session.close_gap(0, 4, 60, 90);
  std::vector<llama_token> stay = part(text, 0, 4);
  stay.insert(stay.end(), text.begin() + 60, text.end());
  OwnSession rebuilt(model.get(), server_params());
  rebuilt.decode({{0, stay}});
  EXPECT_LT(difference(rebuilt.decode({{0, {7}}}), session.decode({{0, {7}}})), 1e-3);
}

/// Every way in which keys turn.
std::vector<TinyModel> moved_models() {
  std::vector<TinyModel> models =
      tiny_models({"llama", "qwen2", "qwen3", "phi3", "deepseek2", "bloom"});
  for (const TinyModel& variant : tiny_rotary_variants()) models.push_back(variant);
  return models;
}

INSTANTIATE_TEST_SUITE_P(Models, MovedModel, ::testing::ValuesIn(moved_models()),
                         [](const auto& info) {
                           return name_of(info) + std::to_string(info.index);
                         });

TEST(LlamaContext, MovesNoTokensOfModelsWithWindows) {
  for (const char* architecture : {"gemma2", "gemma3", "gpt-oss"}) {
    TinyModel model;
    model.architecture = architecture;
    const llama_model_ptr loaded = tiny_model(model);
    SquatSession session(loaded.get(), squat_params(), exact_config());
    EXPECT_FALSE(session.own().sequences().can_shift()) << architecture;
  }
}

TEST(LlamaContext, KnowsWhereChunksBegin) {
  TinyModel description;
  description.architecture = "llama4";
  const llama_model_ptr model = tiny_model(description);
  llama_context_params own_params = server_params(), params = squat_params();
  for (llama_context_params* one : {&own_params, &params}) {
    one->n_ctx = 8448;
    one->n_batch = one->n_ubatch = 512;
    one->n_seq_max = 1;
  }
  OwnSession own(model.get(), own_params);
  Config config = exact_config();
  config.residual_length = 16384;
  SquatSession session(model.get(), params, config);
  const ModelShape& shape = session.own().cache().shape();
  EXPECT_EQ(shape.layer(0).chunk, 8192);
  EXPECT_EQ(shape.layer(3).chunk, 0);
  for (int done = 0; done < 8192; done += 512)
    for (Session* one : {static_cast<Session*>(&own), static_cast<Session*>(&session)})
      one->decode({{0, some_tokens(done == 7680 ? 507 : 512)}});
  // The chunk ends within the first of these.
  EXPECT_LT(difference(own.decode({{0, some_tokens(20)}}), session.decode({{0, some_tokens(20)}})),
            1e-3);
  EXPECT_LT(difference(own.decode({{0, {7}}}), session.decode({{0, {7}}})), 1e-3);
  // Tokens of an image see those behind the end of their chunk.
  for (Session* one : {static_cast<Session*>(&own), static_cast<Session*>(&session)}) {
    EXPECT_TRUE(one->cut(0, 8187));
    one->set_causal(false);
  }
  EXPECT_LT(difference(own.show({{0, 4, 5}}), session.show({{0, 4, 5}})), 1e-3);
}

/// The message of the error that a context of this model and these parameters fails with.
std::string refusal(const TinyModel& model, const llama_context_params& params = squat_params()) {
  const llama_model_ptr loaded = tiny_model(model);
  try {
    const LlamaContext context(loaded.get(), params, Config::recommended(8));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string refusal(const std::string& architecture) {
  TinyModel model;
  model.architecture = architecture;
  return refusal(model);
}

void expect_says(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(LlamaContext, RefusesModelsThatACacheCannotCompute) {
  expect_says(refusal("mamba"), "(mamba) has no attention");
  expect_says(refusal("t5"), "(t5) has an encoder");
  expect_says(refusal("bert"), "(bert) is not causal");
}

TEST(LlamaContext, RefusesParametersThatItCannotHonour) {
  const auto with = [](const auto& change) {
    llama_context_params params = squat_params();
    change(params);
    return refusal(TinyModel(), params);
  };
  expect_says(with([](auto& p) { p.type_k = GGML_TYPE_Q8_0; }), "type_v is q8_0; it must be f16");
  expect_says(with([](auto& p) { p.type_v = GGML_TYPE_Q4_0; }), "type_v is q4_0; it must be f16");
  expect_says(with([](auto& p) { p.attention_type = LLAMA_ATTENTION_TYPE_NON_CAUSAL; }),
              "params.attention_type is not causal");
}

/// What decoding this batch fails with.
std::string failure(LlamaContext& context, const llama_batch& batch) {
  try {
    context.decode(batch);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class PlainContext : public ::testing::Test {
 protected:
  llama_model_ptr model_ = tiny_model(TinyModel());
  SquatSession session_{model_.get(), squat_params(), exact_config()};
  LlamaContext& context_ = session_.own();
};

TEST_F(PlainContext, RefusesBatchesThatItCannotTakeAndGoesOn) {
  llama_token token = 5;
  llama_pos position = 3;
  std::int32_t count = 1;
  llama_seq_id sequences[] = {0, 1};
  llama_seq_id* list = sequences;
  std::int8_t wanted = 1;
  llama_batch batch{1, &token, nullptr, &position, &count, &list, &wanted};
  expect_says(failure(context_, batch), "has position 3; it must be 0");
  position = 0;
  count = 2;
  sequences[1] = 4;
  expect_says(failure(context_, batch), "sequence is 4; the context has sequences 0 to 2");
  count = 0;
  expect_says(failure(context_, batch), "token 0 of the batch belongs to no sequence");
  count = 1;
  sequences[0] = 3;
  expect_says(failure(context_, batch), "sequence is 3; the context has sequences 0 to 2");
  sequences[0] = 0;
  EXPECT_EQ(context_.sequences().max_position(0), -1);
  EXPECT_EQ(context_.decode(batch), 0);
  EXPECT_EQ(context_.sequences().min_position(0), 0);
  EXPECT_EQ(context_.sequences().max_position(0), 0);
}

TEST_F(PlainContext, SaysWhenItIsFullAsLlamaCppDoes) {
  const std::vector<llama_token> text = some_tokens(512);
  for (int begin = 0; begin < 480; begin += 96)
    session_.decode({{0, part(text, begin, begin + 96)}});
  std::vector<llama_token> more = part(text, 0, 33);
  EXPECT_EQ(context_.decode(llama_batch_get_one(more.data(), 33)), 1);
  EXPECT_EQ(context_.sequences().size(0), 480);
  EXPECT_EQ(context_.decode(llama_batch_get_one(more.data(), 32)), 0);
  EXPECT_EQ(context_.sequences().size(0), 512);
}

TEST_F(PlainContext, CopiesCountOnce) {
  const std::vector<llama_token> text = some_tokens(480);
  for (int begin = 0; begin < 480; begin += 96)
    session_.decode({{0, part(text, begin, begin + 96)}});
  session_.fork(0, 1);
  session_.decode({{0, {1}}, {1, {2}}});
  EXPECT_EQ(context_.sequences().total(), 962);
}

// A beginning that sequences have in common, in one batch with what they have not.
TEST_F(PlainContext, TakesTokensOfSeveralSequences) {
  OwnSession own(model_.get(), server_params());
  const std::vector<llama_token> text = some_tokens(300);
  const std::vector<std::vector<Piece>> batches = {{{1, part(text, 0, 40), {0, 2}},
                                                    {0, part(text, 40, 50)},
                                                    {1, part(text, 60, 70)},
                                                    {2, part(text, 80, 90)}},
                                                   {{0, {5}}, {2, {6}}},
                                                   {{1, {7}}, {0, {8}}}};
  for (const std::vector<Piece>& batch : batches)
    EXPECT_LT(difference(own.decode(batch), session_.decode(batch)), 1e-3);
  EXPECT_EQ(context_.sequences().size(2), 51);
  EXPECT_TRUE(session_.cut(2, 45));
  EXPECT_TRUE(own.cut(2, 45));
  EXPECT_LT(difference(own.decode({{2, {9}}}), session_.decode({{2, {9}}})), 1e-3);
}

TEST_F(PlainContext, CountsTokensOfSeveralSequencesOnce) {
  const std::vector<llama_token> text = some_tokens(480);
  for (int begin = 0; begin < 480; begin += 96)
    session_.decode({{0, part(text, begin, begin + 96), {1, 2}}});
  session_.decode({{0, part(text, 0, 10)}, {1, part(text, 0, 10)}, {2, part(text, 0, 12)}});
  EXPECT_THROW(session_.decode({{0, {1}}}), std::runtime_error);  // the context is full
}

TEST_F(PlainContext, TakesTokensOut) {
  session_.decode({{0, some_tokens(20)}});
  EXPECT_TRUE(context_.sequences().remove(0, 5, 10));
  EXPECT_TRUE(context_.sequences().remove(0, 0, 2));
  EXPECT_EQ(context_.sequences().size(0), 20);
  EXPECT_THROW(context_.sequences().shift(0, 10, -1, -7), Error);  // over tokens
  context_.sequences().shift(0, 10, -1, -5);
  EXPECT_EQ(context_.sequences().size(0), 15);
  EXPECT_TRUE(context_.sequences().remove(0, 25, -1));
  EXPECT_TRUE(context_.sequences().remove(0, 5, 25));
  EXPECT_EQ(context_.sequences().size(0), 5);
}

TEST_F(PlainContext, KeepsASequenceThatCannotGoOnFromGoingOn) {
  session_.decode({{0, some_tokens(20)}});
  context_.sequences().break_off(0, "positions were moved");
  std::vector<llama_token> more = {5};
  expect_says(failure(context_, llama_batch_get_one(more.data(), 1)), "positions were moved");
  EXPECT_TRUE(context_.sequences().remove(0, -1, -1));
  EXPECT_EQ(context_.decode(llama_batch_get_one(more.data(), 1)), 0);
}

TEST_F(PlainContext, ReportsAnErrorOfTheOperatorAndTakesTheBatchBack) {
  session_.decode({{0, some_tokens(20)}});
  const Rows before = session_.decode({{0, {7}}});
  ASSERT_TRUE(session_.cut(0, 20));
  // Embeddings of infinity reach the cache as keys.
  std::vector<float> embeddings(static_cast<std::size_t>(2 * llama_model_n_embd(model_.get())),
                                std::numeric_limits<float>::infinity());
  llama_batch batch = llama_batch_get_one(nullptr, 2);
  batch.embd = embeddings.data();
  expect_says(failure(context_, batch), "must be finite");
  EXPECT_EQ(context_.sequences().size(0), 20);
  EXPECT_EQ(difference(before, session_.decode({{0, {7}}})), 0);
}

TEST_F(PlainContext, StopsWhereTheProgramAborts) {
  session_.decode({{0, some_tokens(20)}});
  std::vector<llama_token> more = some_tokens(5);
  for (const int limit : {1, 12, 30}) {  // before the first layer, between layers, behind the last
    struct Nodes {
      int limit, count;
    } nodes{limit, 0};
    context_.set_abort_callback(
        [](void* data) {
          Nodes& nodes = *static_cast<Nodes*>(data);
          return ++nodes.count > nodes.limit;
        },
        &nodes);
    EXPECT_EQ(context_.decode(llama_batch_get_one(more.data(), 5)), 2) << limit;
    EXPECT_EQ(context_.sequences().size(0), 20) << limit;
  }
  context_.set_abort_callback(nullptr, nullptr);
  EXPECT_EQ(context_.decode(llama_batch_get_one(more.data(), 5)), 0);
  EXPECT_EQ(context_.sequences().size(0), 25);
}

TEST_F(PlainContext, RefusesDamagedStates) {
  session_.decode({{0, some_tokens(20)}});
  std::string state = session_.save(0);
  state[state.size() / 2] = static_cast<char>(state[state.size() / 2] ^ 4);
  EXPECT_THROW(session_.restore(state, 1, 20), Error);
  EXPECT_THROW(session_.restore(state.substr(0, 100), 1, 20), Error);
  EXPECT_THROW(session_.restore("", 1, 20), Error);
  EXPECT_EQ(context_.sequences().size(1), 0);
  EXPECT_EQ(context_.sequences().size(0), 20);
}

TEST(LlamaContext, ShowsGraphsToTheProgramsOwnCallback) {
  struct Seen {
    int asked = 0, shown = 0;
  } seen;
  llama_context_params params = squat_params();
  params.cb_eval = [](ggml_tensor* node, bool ask, void* data) {
    Seen& seen = *static_cast<Seen*>(data);
    if (node->op == GGML_OP_RMS_NORM) ++(ask ? seen.asked : seen.shown);
    return node->op == GGML_OP_RMS_NORM;
  };
  params.cb_eval_user_data = &seen;
  const llama_model_ptr model = tiny_model(TinyModel());
  SquatSession session(model.get(), params, exact_config());
  OwnSession own(model.get(), server_params());
  EXPECT_LT(difference(own.decode({{0, some_tokens(20)}}), session.decode({{0, some_tokens(20)}})),
            1e-3);
  EXPECT_GT(seen.shown, 4);
  EXPECT_EQ(seen.asked, seen.shown);
}

TEST(LlamaContext, HoldsNoMoreOfWindowsThanTheySee) {
  TinyModel description;
  description.architecture = "gemma3";
  const llama_model_ptr model = tiny_model(description);
  Config config = Config::recommended(4);
  SquatSession session(model.get(), squat_params(), config);
  session.decode({{0, some_tokens(96)}});
  session.decode({{0, some_tokens(96)}});
  session.decode({{0, some_tokens(96)}});
  EXPECT_GT(session.own().sequences().min_position(0), 0);
  // Further back than windows allow, then as far as they do.
  EXPECT_FALSE(session.cut(0, 40));
  EXPECT_EQ(session.own().sequences().size(0), 288);
  EXPECT_TRUE(session.cut(0, 288 - 64));
  EXPECT_TRUE(session.cut(0, 0));
}

TEST(LlamaContext, KeysOfLongSequencesFollowTheQueries) {
  const llama_model_ptr model = tiny_model({});
  llama_context_params params = squat_params();
  params.n_ctx = 2560;
  params.n_batch = params.n_ubatch = 128;
  params.n_seq_max = 1;
  Config config = Config::recommended(2.5);
  config.shared_svd = false;
  SquatSession session(model.get(), params, config);
  const auto headers_at = [&](llama_pos size) {
    while (session.size(0) < size) session.decode({{0, some_tokens(128)}});
    return session.own().cache().memory().headers;
  };
  const Index at_first = headers_at(1152);
  EXPECT_EQ(headers_at(1920), at_first);
  EXPECT_GT(headers_at(2176), at_first);  // bits per channel by queries of that time
}

}  // namespace
}  // namespace squat::testing
