// Adapters of a model: control vectors and LoRA in a context on a SQuat cache.
#include "gguf_writer.hpp"
#include "sessions.hpp"
#include "tiny_layers.hpp"

namespace squat::testing {
namespace {

/// Changes every product with weights in a layer of `model`: a product with two matrices of this
/// rank is added to it.
void write_adapter(const TinyModel& model, const std::string& path) {
  constexpr int rank = 4;
  GgufWriter writer(model.architecture, model.seed + 1);
  writer.text("general.type", "adapter");
  writer.text("adapter.type", "lora");
  writer.real("adapter.lora.alpha", rank);
  const auto change = [&](const std::string& name, int inputs, int outputs) {
    writer.random(name + ".weight.lora_a", {inputs, rank}, 0, 1 / std::sqrt(inputs));
    writer.random(name + ".weight.lora_b", {rank, outputs}, 0, 0.5 / std::sqrt(rank));
  };
  for (int layer = 0; layer < model.layers; ++layer) {
    const std::string at = block(layer);
    change(at + "attn_q", model.embedding, model.heads * model.head_dim);
    change(at + "attn_k", model.embedding, model.kv_heads * model.head_dim);
    change(at + "attn_v", model.embedding, model.kv_heads * model.head_dim);
    change(at + "attn_output", model.heads * model.head_dim, model.embedding);
    change(at + "ffn_gate", model.embedding, model.feed_forward);
    change(at + "ffn_up", model.embedding, model.feed_forward);
    change(at + "ffn_down", model.feed_forward, model.embedding);
  }
  writer.save(path);
}

class Adapters : public ::testing::TestWithParam<const char*> {
 protected:
  static TinyModel description() {
    TinyModel model;
    model.architecture = GetParam();
    return completed(model);
  }
  static Config eight_bits() {
    Config config = Config::recommended(8);
    config.shared_svd = false;
    return config;
  }

  llama_model_ptr model_ = tiny_model(description());
  OwnSession own_{model_.get(), server_params()};
  SquatSession exact_{model_.get(), squat_params(), exact_config()};
  SquatSession packed_{model_.get(), squat_params(), eight_bits()};
};

/// A prompt in pieces, then single tokens.
Rows answer(Session& session, llama_seq_id sequence) {
  const std::vector<llama_token> text = some_tokens(150);
  Rows rows = session.decode({{sequence, part(text, 0, 90)}});
  for (std::vector<float>& row : session.decode({{sequence, part(text, 90, 150)}}))
    rows.push_back(std::move(row));
  for (llama_token token = 20; token < 25; ++token)
    rows.push_back(session.decode({{sequence, {token}}}).front());
  return rows;
}

TEST_P(Adapters, OfLowRankAreThoseOfLlamaCpp) {
  const TemporaryFile file;
  write_adapter(description(), file.path());
  llama_adapter_lora* adapter = llama_adapter_lora_init(model_.get(), file.path().c_str());
  ASSERT_NE(adapter, nullptr);  // the model frees it
  const Rows before = answer(own_, 0);
  for (float scale : {0.5f, 1.f}) {
    for (llama_context* context : {own_.context(), exact_.context(), packed_.context()})
      ASSERT_EQ(llama_set_adapters_lora(context, &adapter, 1, &scale), 0);
    const llama_seq_id sequence = scale == 1 ? 2 : 1;
    const Rows expected = answer(own_, sequence);
    EXPECT_GT(difference(before, expected), 0.1);
    EXPECT_LT(difference(expected, answer(exact_, sequence)), 1e-3);
    EXPECT_LT(difference(expected, answer(packed_, sequence)), 2e-2);
  }
  ASSERT_EQ(llama_set_adapters_lora(exact_.context(), nullptr, 0, nullptr), 0);
  EXPECT_LT(difference(before, answer(exact_, 0)), 1e-3);
}

TEST_P(Adapters, OfOneDirectionAreThoseOfLlamaCpp) {
  const std::vector<llama_token> text = some_tokens(40);
  const Rows before = own_.decode({{0, text}});
  EXPECT_LT(difference(before, exact_.decode({{0, text}})), 1e-3);
  const std::int32_t width = llama_model_n_embd(model_.get());
  const std::vector<float> direction(static_cast<std::size_t>(width), 0.5f);
  for (llama_context* context : {exact_.context(), own_.context()})
    ASSERT_EQ(llama_set_adapter_cvec(context, direction.data(), direction.size(), width, 1, 1), 0);
  const Rows after = own_.decode({{1, text}});
  EXPECT_GT(difference(before, after), 1e-2);
  EXPECT_LT(difference(after, exact_.decode({{1, text}})), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Models, Adapters, ::testing::Values("llama", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace squat::testing
