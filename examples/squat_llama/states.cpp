#include "states.hpp"

#include <cmath>
#include <fstream>
#include <iomanip>
#include <sstream>

#include "dense_attention.hpp"
#include "host_cache.hpp"
#include "require.hpp"

namespace squat_llama {
namespace {

using Path = std::filesystem::path;

void write_half(const Path& path, const squat::MatrixView<float>& rows) {
  const squat::Matrix<Eigen::half> half = rows.cast<Eigen::half>();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(half.data()),
             static_cast<std::streamsize>(half.size()) * 2);
  file.flush();
  require(file.good(), "cannot write ", path.string());
}

/// Keeps nothing: writes what one pass brings and lets the pass attend to itself.
class WritingCache : public HostCache {
 public:
  WritingCache(const ModelConfig& config, std::set<int> layers, Path folder)
      : HostCache(config, /*threads=*/1), layers_(std::move(layers)), folder_(std::move(folder)) {}

  int64_t size() const override { return 0; }
  void clear() override {}
  CacheBytes bytes() const override { return {}; }

 protected:
  void attend(int layer, Rows rows) override {
    if (layers_.count(layer) != 0) {
      std::ostringstream name;
      name << "layer" << std::setw(2) << std::setfill('0') << layer;
      write_half(folder_ / (name.str() + ".q.f16"), rows.query);
      write_half(folder_ / (name.str() + ".k.f16"), rows.key);
      write_half(folder_ / (name.str() + ".v.f16"), rows.value);
    }
    const squat::Index dim = config().head_dim;
    const squat::Index group = config().query_heads / config().kv_heads;
    for (squat::Index head = 0; head < config().query_heads; ++head) {
      const squat::Index column = head / group * dim;
      dense_attention(rows.query.middleCols(head * dim, dim), rows.key.middleCols(column, dim),
                      rows.value.middleCols(column, dim), 1 / std::sqrt(static_cast<float>(dim)),
                      rows.out.middleCols(head * dim, dim));
    }
  }

 private:
  std::set<int> layers_;
  Path folder_;
};

}  // namespace

std::size_t write_states(Engine& engine, const std::vector<Token>& tokens, std::set<int> layers,
                         const Path& folder) {
  const ModelConfig& config = engine.model().config();
  for (const int layer : layers) {
    require(layer >= 0 && layer < config.layers, "there is no layer ", layer,
            "; the model has layers 0 to ", config.layers - 1);
  }
  const bool all = layers.empty();
  for (int layer = 0; all && layer < config.layers; ++layer) layers.insert(layer);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(std::filesystem::is_directory(folder), "cannot make the folder ", folder.string());
  const std::size_t count = layers.size();
  WritingCache cache(config, std::move(layers), folder);
  engine.forward(tokens, cache);
  return count;
}

}  // namespace squat_llama
