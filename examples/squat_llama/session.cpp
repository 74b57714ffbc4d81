#include "session.hpp"

#include <algorithm>
#include <numeric>
#include <squat/error.hpp>

#include "cell_session.hpp"
#include "squat_session.hpp"

namespace squat_llama {

Session::Session(const Model& model, const SessionOptions& options)
    : vocabulary_(model.vocabulary()),
      batch_(static_cast<std::size_t>(options.batch)),
      sizes_(static_cast<std::size_t>(options.texts), 0) {}

llama_context_params Session::context_params(const Model& model, const SessionOptions& options) {
  const auto padded = [](int size) { return static_cast<std::uint32_t>((size + 255) / 256 * 256); };
  const auto texts = static_cast<std::uint32_t>(options.texts);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = padded(options.capacity) * texts;
  params.n_batch = params.n_ubatch = std::max(static_cast<std::uint32_t>(options.batch),
                                              static_cast<std::uint32_t>(options.step) * texts);
  params.n_seq_max = texts;
  params.n_threads = params.n_threads_batch = model.threads();
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.swa_full = false;
  return params;
}

double Session::tokens() const {
  return static_cast<double>(std::accumulate(sizes_.begin(), sizes_.end(), llama_pos{0}));
}

void Session::decode(const std::vector<Token>& tokens, const std::vector<int>& texts,
                     bool has_logits) {
  const auto count = static_cast<std::int32_t>(tokens.size());
  const std::unique_ptr<llama_batch, void (*)(llama_batch*)> batch(
      new llama_batch(llama_batch_init(count, 0, 1)), [](llama_batch* made) {
        llama_batch_free(*made);
        delete made;
      });
  batch->n_tokens = count;
  for (std::int32_t i = 0; i < count; ++i) {
    const int text = texts[static_cast<std::size_t>(i)];
    batch->token[i] = tokens[static_cast<std::size_t>(i)];
    batch->pos[i] = sizes_[static_cast<std::size_t>(text)]++;
    batch->n_seq_id[i] = 1;
    batch->seq_id[i][0] = text;
    batch->logits[i] = has_logits;
  }
  const std::int32_t result = decode(*batch);
  squat::require(result == 0, "llama_decode returns ", result, " for ", count, " tokens");
}

void Session::read(int text, const std::vector<Token>& tokens) {
  for (auto begin = tokens.begin(); begin != tokens.end();) {
    const auto left = static_cast<std::size_t>(tokens.end() - begin);
    const auto end = begin + static_cast<std::ptrdiff_t>(std::min(batch_, left));
    const std::vector<Token> part(begin, end);
    decode(part, std::vector<int>(part.size(), text), /*has_logits=*/false);
    begin = end;
  }
}

squat::Matrix<float> Session::step(const std::vector<std::vector<Token>>& tokens) {
  std::vector<Token> all;
  std::vector<int> texts;
  for (std::size_t text = 0; text < tokens.size(); ++text) {
    all.insert(all.end(), tokens[text].begin(), tokens[text].end());
    texts.insert(texts.end(), tokens[text].size(), static_cast<int>(text));
  }
  decode(all, texts, /*has_logits=*/true);
  squat::Matrix<float> logits(static_cast<squat::Index>(all.size()), vocabulary_);
  for (squat::Index i = 0; i < logits.rows(); ++i)
    logits.row(i) = Eigen::Map<const Eigen::RowVectorXf>(
        llama_get_logits_ith(context(), static_cast<std::int32_t>(i)), vocabulary_);
  return logits;
}

std::unique_ptr<Session> make_session(const Model& model, const CacheSpec& spec,
                                      const SessionOptions& options) {
  if (const auto* squat = std::get_if<SquatSpec>(&spec.format))
    return std::make_unique<SquatSession>(model, *squat, options);
  if (const auto* turbo = std::get_if<TurboSpec>(&spec.format))
    return std::make_unique<CellSession>(
        model, std::make_unique<TurboRounding>(attention_shape(model), turbo->bits), options);
  if (std::holds_alternative<OscarSpec>(spec.format)) {
    const squat::ModelShape shape = attention_shape(model);
    return std::make_unique<CellSession>(
        model,
        std::make_unique<OscarRounding>(shape, fit_oscar_bases(model, shape, options.calibration),
                                        options.texts),
        options);
  }
  return std::make_unique<CellSession>(model, std::get<ggml_type>(spec.format), options);
}

}  // namespace squat_llama
