#include "llama_session.hpp"

#include <algorithm>

#include "libllama.hpp"
#include "require.hpp"

namespace squat_llama {
namespace {

constexpr std::ptrdiff_t kTokensOfPass = 512;

ggml_type type_of(const std::string& name) {
  if (name == "f16") return GGML_TYPE_F16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  if (name == "q4_0") return GGML_TYPE_Q4_0;
  fail("llama.cpp is not asked for a cache of '" + name + "'; known are f16, q8_0, q4_0");
}

}  // namespace

#define FUNCTION(name) \
  decltype(&llama_##name) name = find_in_libllama<decltype(name)>("llama_" #name)

struct LlamaSession::State {
  State(const std::string& model_path, const Options& options) {
    llama_context_params params =
        find_in_libllama<decltype(&llama_context_default_params)>("llama_context_default_params")();
    params.n_ctx = static_cast<uint32_t>(options.capacity);
    params.n_batch = params.n_ubatch = kTokensOfPass;
    params.n_threads = params.n_threads_batch = static_cast<uint32_t>(options.threads);
    params.type_k = params.type_v = type_of(options.cache_type);
    params.flash_attn = options.flash_attention;
    model = load_with_libllama(model_path, /*vocabulary_only=*/false);
    context =
        find_in_libllama<decltype(&llama_init_from_model)>("llama_init_from_model")(model, params);
    if (context == nullptr) free_model(model);
    require(context != nullptr, "llama.cpp cannot make a context of ", options.capacity, " tokens");
    batch = batch_init(kTokensOfPass, 0, 1);
  }
  ~State() {
    batch_free(batch);
    free(context);
    free_model(model);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void add_to_batch(int token, bool with_logits) {
    batch.token[batch.n_tokens] = token;
    batch.pos[batch.n_tokens] = position++;
    batch.n_seq_id[batch.n_tokens] = 1;
    batch.seq_id[batch.n_tokens][0] = 0;
    batch.logits[batch.n_tokens++] = with_logits ? 1 : 0;
  }

  FUNCTION(batch_init);
  FUNCTION(batch_free);
  FUNCTION(free);
  FUNCTION(free_model);
  FUNCTION(decode);
  FUNCTION(get_logits_ith);
  FUNCTION(n_vocab);

  llama_model* model = nullptr;
  llama_context* context = nullptr;
  llama_batch batch{};
  int32_t position = 0;
};

#undef FUNCTION

LlamaSession::LlamaSession(const std::string& model_path, const Options& options)
    : state_(std::make_unique<State>(model_path, options)) {}
LlamaSession::~LlamaSession() = default;

std::vector<float> LlamaSession::forward(const std::vector<int>& tokens, bool all_logits) {
  State& state = *state_;
  const std::ptrdiff_t vocabulary = state.n_vocab(state.model);
  std::vector<float> logits;
  for (auto token = tokens.begin(); token != tokens.end();) {
    state.batch.n_tokens = 0;
    for (const auto end = token + std::min(kTokensOfPass, tokens.end() - token); token != end;) {
      const bool is_last = token + 1 == tokens.end();
      state.add_to_batch(*token++, all_logits || is_last);
    }
    require(state.decode(state.context, state.batch) == 0, "llama.cpp cannot decode");
    for (int32_t i = 0; i < state.batch.n_tokens; ++i) {
      if (state.batch.logits[i] == 0) continue;
      const float* row = state.get_logits_ith(state.context, i);
      logits.insert(logits.end(), row, row + vocabulary);
    }
  }
  return logits;
}

}  // namespace squat_llama
