#include "moments.hpp"

#include <fstream>

#include "attention_shape.hpp"
#include "ggml_cache.hpp"
#include "host_cache.hpp"
#include "require.hpp"
#include "tee_cache.hpp"

namespace squat_llama {
namespace {

/// Keeps the moments of queries alone, and attends to nothing.
class MomentsCache : public HostCache {
 public:
  MomentsCache(const ModelConfig& model, squat::SubspaceQueries which, squat::QueryMoments& moments)
      : HostCache(model, /*threads=*/1), which_(which), moments_(moments) {}

  bool applies_rope() const override { return which_ == squat::SubspaceQueries::before_rope; }
  int64_t size() const override { return 0; }
  void clear() override {}
  CacheBytes bytes() const override { return {}; }

 protected:
  void attend(int layer, Rows rows) override { moments_.add<float>(layer, rows.query); }

 private:
  squat::SubspaceQueries which_;
  squat::QueryMoments& moments_;
};

}  // namespace

squat::QueryMoments empty_moments(const ModelConfig& model) {
  return squat::QueryMoments(attention_shape(model));
}

void add_moments(Engine& engine, const std::vector<Token>& tokens, squat::SubspaceQueries which,
                 squat::QueryMoments& moments) {
  const ModelConfig& model = engine.model().config();
  GgmlCache full(model, GGML_TYPE_F32, Rotation::none, static_cast<int64_t>(tokens.size()));
  MomentsCache gathering(model, which, moments);
  TeeCache both({&full, &gathering});
  engine.forward(tokens, both);
}

std::optional<squat::QueryMoments> load_moments(const std::string& path, const ModelConfig& model) {
  if (path.empty()) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  require(file.good(), "cannot open ", path);
  return squat::QueryMoments::load(file, attention_shape(model));
}

}  // namespace squat_llama
