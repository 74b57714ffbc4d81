#include <cmath>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <set>
#include <squat/error.hpp>
#include <sstream>

#include "commands.hpp"
#include "dense_attention.hpp"
#include "host_cache.hpp"
#include "tokenizer.hpp"

namespace squat_llama {
namespace {

using Path = std::filesystem::path;

void write_half(const Path& path, const squat::MatrixView<float>& rows) {
  const squat::Matrix<Eigen::half> half = rows.cast<Eigen::half>();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(half.data()),
             static_cast<std::streamsize>(half.size()) * 2);
  squat::require(file.good(), "cannot write ", path.string());
}

/// Keeps nothing: writes what one pass brings and lets the pass attend to itself.
class CapturingCache : public HostCache {
 public:
  CapturingCache(const ModelConfig& config, std::set<int> layers, Path folder)
      : HostCache(config, /*parts=*/1), layers_(std::move(layers)), folder_(std::move(folder)) {}

  int64_t size() const override { return 0; }
  void clear() override {}
  CacheBytes bytes() const override { return {}; }

 protected:
  void attend(int layer, int, Rows rows) override {
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

void capture(const ModelOptions& model_options, const CaptureOptions& options) {
  const Model model(model_options.path, model_options.weights);
  const ModelConfig& config = model.config();
  std::set<int> layers(options.layers.begin(), options.layers.end());
  for (const int layer : layers) {
    squat::require(layer >= 0 && layer < config.layers, "there is no layer ", layer,
                   "; the model has layers 0 to ", config.layers - 1);
  }
  for (int layer = 0; options.layers.empty() && layer < config.layers; ++layer) {
    layers.insert(layer);
  }
  std::vector<Token> tokens = Tokenizer(model_options.path).encode(read_file(options.text_path));
  squat::require(options.tokens >= 1 && tokens.size() >= static_cast<std::size_t>(options.tokens),
                 options.text_path, " has ", tokens.size(), " tokens; ", options.tokens,
                 " were to be captured");
  tokens.resize(static_cast<std::size_t>(options.tokens));

  std::filesystem::create_directories(options.folder);
  CapturingCache cache(config, layers, options.folder);
  Engine(model, model_options.threads).forward(tokens, cache);
  std::cout << layers.size() << " layers, " << options.tokens << " tokens, " << config.query_heads
            << " query heads, " << config.kv_heads << " kv heads, head_dim " << config.head_dim
            << " in " << options.folder
            << ": layerNN.{q,k,v}.f16, half precision [tokens, heads, head_dim]\n";
}

}  // namespace squat_llama
